//! What has to be there before a machine can be started: QEMU, and the image.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::host::root;

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// QEMU's `microvm`.
    X86_64,
    /// QEMU's `virt`.
    Riscv32,
}

impl Arch {
    /// What Rust calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Riscv32 => "riscv32",
        }
    }

    /// QEMU's program.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Riscv32 => "qemu-system-riscv32",
        }
    }

    /// Debian's package of it.
    pub fn package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Riscv32 => "qemu-system-misc",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Riscv32 => "riscv32imac-unknown-none-elf",
        }
    }

    /// What makes QEMU this machine. Never KVM: where there is no nested virtualisation it breaks
    /// at the first SSE instruction.
    pub fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &[
                "-M",
                "microvm,acpi=off,rtc=on,isa-serial=on,pit=on,pic=on",
                "-cpu",
                "max",
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=4",
            ],
            Self::Riscv32 => &["-M", "virt", "-bios", "none"],
        }
    }
}

/// Does this command run to a good end?
fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether QEMU is there, and can carry frames in datagrams; if not, what to do.
///
/// # Errors
/// What to do, as text.
pub fn check(arch: Arch) -> Result<(), String> {
    let (qemu, package) = (arch.qemu(), arch.package());
    if !works(qemu, &["--version"]) {
        return Err(format!(
            "{qemu} is not installed. On Debian: apt-get install --no-install-recommends \
             {package}. A newer qemu-utils, from backports, has to step back with it: add \
             `qemu-utils=VERSION --allow-downgrades`, with the version that `apt-cache policy \
             {package}` calls its candidate"
        ));
    }
    let netdevs = Command::new(qemu)
        .args(["-M", "none", "-netdev", "help"])
        .output();
    let is_new = netdevs.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("dgram"));
    match is_new {
        true => Ok(()),
        false => Err(format!("{qemu} is older than 7.2: it has no -netdev dgram")),
    }
}

/// What the members execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The key-value map.
    Kv,
    /// What sends every message back.
    Echo,
}

/// Builds the image, with a toolchain that has its target: rustup's, or Debian's `rustc-web` and
/// its own source of the core library.
///
/// # Errors
/// It does not build, or there is no toolchain, and then what to install.
pub fn build(arch: Arch, service: Service) -> Result<PathBuf, String> {
    let folder = root().join("platform-embedded/image");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["build", "--release", "--locked", "--target", arch.target()]);
    command.current_dir(&folder);
    // A folder for each service: a machine that starts again must find the image that it had.
    let mut target = match service {
        Service::Kv => "target".to_owned(),
        Service::Echo => "target/echo".to_owned(),
    };
    if service == Service::Echo {
        command.args(["--features", "echo"]);
    }
    if arch == Arch::Riscv32 && !has_target(arch) {
        target += "/debian";
        debian(&mut command)?;
    }
    command.arg("--target-dir").arg(folder.join(&target));
    let status = command.status().map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err(format!("the {} image does not build", arch.name()));
    }
    let built = folder.join(target).join(arch.target());
    Ok(built.join("release/coracle-image"))
}

fn sysroot(rustc: &str) -> Option<PathBuf> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output();
    let path = String::from_utf8(output.ok()?.stdout).ok()?;
    Some(PathBuf::from(path.trim()))
}

fn has_target(arch: Arch) -> bool {
    let library = format!("lib/rustlib/{}/lib", arch.target());
    sysroot("rustc").is_some_and(|sysroot| sysroot.join(library).is_dir())
}

/// Whether a toolchain for it is there.
///
/// # Errors
/// What to install.
pub fn toolchain(arch: Arch) -> Result<(), String> {
    match has_target(arch) {
        true => Ok(()),
        false => debian(&mut Command::new("cargo")),
    }
}

/// Debian's compiler has no core library for a bare target, but comes with its source; the linker
/// is rustup's.
fn debian(command: &mut Command) -> Result<(), String> {
    let rustc = "/usr/bin/rustc";
    let source = sysroot(rustc).map(|s| s.join("lib/rustlib/src/rust/library/core"));
    let own = sysroot("rustc").unwrap_or_default();
    let linker = own.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    if !source.is_some_and(|source| source.is_dir()) || !linker.is_file() {
        return Err(
            "there is no Rust toolchain for riscv32: `rustup target add \
             riscv32imac-unknown-none-elf`; or, where that cannot download, Debian's packages \
             rustc-web and rust-web-src (1.96 or newer, from bookworm-security)"
                .into(),
        );
    }
    command.args(["-Z", "build-std=core"]);
    command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_TARGET_RISCV32IMAC_UNKNOWN_NONE_ELF_LINKER", linker);
    Ok(())
}

/// How many bytes of an image are code and data, without symbols: what a disk or ROM would hold.
///
/// # Errors
/// It is no ELF file.
pub fn image_size(image: &Path) -> Result<u64, String> {
    let bytes = std::fs::read(image).map_err(|e| format!("{}: {e}", image.display()))?;
    loaded(&bytes).ok_or_else(|| format!("{} is no ELF file", image.display()))
}

/// The sum of what its segments take in the file.
fn loaded(elf: &[u8]) -> Option<u64> {
    let u16_at = |at: usize| {
        Some(u64::from(u16::from_le_bytes(
            *elf.get(at..)?.first_chunk()?,
        )))
    };
    let u32_at = |at: usize| {
        Some(u64::from(u32::from_le_bytes(
            *elf.get(at..)?.first_chunk()?,
        )))
    };
    // Class, then: where the table of segments is, an entry's length, how many, and in each where
    // its length in the file is.
    let (table, entry, count, file_len) = match elf.get(..5)? {
        [0x7f, b'E', b'L', b'F', 2] => (u32_at(32)?, u16_at(54)?, u16_at(56)?, 32),
        [0x7f, b'E', b'L', b'F', 1] => (u32_at(28)?, u16_at(42)?, u16_at(44)?, 16),
        _ => return None,
    };
    let mut sum = 0;
    for number in 0..count {
        let at = (table + number * entry) as usize;
        if u32_at(at)? == 1 {
            sum += u32_at(at + file_len)?;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_image_is_that_of_what_is_loaded() {
        // One segment to load, of 0x1234 bytes in the file, and a note of 7.
        let mut elf = vec![0; 64 + 2 * 56];
        elf[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2]);
        (elf[32], elf[54], elf[56]) = (64, 56, 2);
        (elf[64], elf[96], elf[97]) = (1, 0x34, 0x12);
        (elf[120], elf[152]) = (4, 7);
        assert_eq!(loaded(&elf), Some(0x1234));
        assert_eq!(loaded(&elf[..100]), None);
        assert_eq!(loaded(b"#!/bin/sh"), None);
    }
}
