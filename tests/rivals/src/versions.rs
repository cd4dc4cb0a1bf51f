//! Which versions these figures are of: of crates those in `Cargo.lock`, of servers what they say.

use std::process::Command;

use serde_json::{Value, json};

const LOCK: &str = include_str!("../Cargo.lock");

/// All of them; of a server that is not installed `null`.
pub fn all() -> Result<Value, String> {
    let of = |name| locked(LOCK, name).ok_or_else(|| format!("Cargo.lock has no `{name}`"));
    Ok(json!({
        "raft-rs": of("raft")?, "protobuf": of("protobuf")?,
        "openraft": of("openraft")?, "tokio": of("tokio")?,
        "tonic": of("tonic")?, "etcd": etcd(),
    }))
}

fn locked<'l>(lock: &'l str, name: &str) -> Option<&'l str> {
    let head = format!("name = \"{name}\"");
    let mut lines = lock.lines();
    lines.find(|line| *line == head)?;
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

/// What etcd calls its version.
pub fn etcd() -> Option<String> {
    let output = Command::new("etcd").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    line.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_by_the_whole_name() {
        let lock = "[[package]]\nname = \"raft-proto\"\nversion = \"0.1.0\"\n\n\
                    [[package]]\nname = \"raft\"\nversion = \"0.7.0\"\n";
        assert_eq!(locked(lock, "raft"), Some("0.7.0"));
        assert_eq!(locked(lock, "raft-proto"), Some("0.1.0"));
        assert_eq!(locked(lock, "openraft"), None);
    }

    #[test]
    fn the_versions_are_those_that_the_manifest_pins() {
        let all = all().unwrap();
        for (key, name) in [("raft-rs", "raft"), ("openraft", "openraft")] {
            let manifest = include_str!("../Cargo.toml");
            let pinned = format!("{name} = {{ version = \"={}\"", all[key].as_str().unwrap());
            assert!(manifest.contains(&pinned), "{pinned}");
        }
    }
}
