//! Networks of their own: one Linux network namespace for each node, one for the client, and one
//! for the bridge that joins them. Nothing outside these namespaces is touched, and deleting them
//! deletes every link in them.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::gate::Missing;

/// Start of the names of all namespaces made here; a process id and a number or word follow.
const PREFIX: &str = "coracle-test-";

/// Hosts joined by a bridge, each in a namespace with an address of its own.
#[derive(Debug)]
pub struct Network {
    hub: String,
    hosts: Vec<Host>,
}

/// One host of a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name of its namespace.
    pub namespace: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Name of the bridge's end of its link.
    port: String,
}

impl Network {
    /// Makes `hosts` hosts and the bridge between them, after removing what dead runs left.
    ///
    /// # Errors
    /// The command that failed, and what it said. Nothing is left behind.
    pub fn build(hosts: u8) -> Result<Self, String> {
        remove_stale();
        let tag = format!("{PREFIX}{}", std::process::id());
        let hosts = (0..hosts)
            .map(|index| Host {
                namespace: format!("{tag}-{index}"),
                address: Ipv4Addr::new(10, 97, 0, 10 + index),
                port: format!("port{index}"),
            })
            .collect();
        // Made first, so that a failure half-way removes what there is.
        let network = Self {
            hub: format!("{tag}-hub"),
            hosts,
        };
        ip(&["netns", "add", &network.hub])?;
        let hub = network.hub.as_str();
        let plain = ["mcast_snooping", "0"];
        ip(&[
            &["-n", hub, "link", "add", "bridge0", "type", "bridge"],
            &plain[..],
        ]
        .concat())?;
        ip(&["-n", hub, "link", "set", "bridge0", "up"])?;
        for host in &network.hosts {
            ip(&["netns", "add", &host.namespace])?;
            ip(&["-n", &host.namespace, "link", "set", "lo", "up"])?;
            network.add_link(host)?;
        }
        Ok(network)
    }

    /// The hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Sets a host's end of its link down: its own sends fail from now on.
    ///
    /// # Errors
    /// The command that failed.
    pub fn set_link_down(&self, host: usize) -> Result<(), String> {
        ip(&[
            "-n",
            &self.hosts[host].namespace,
            "link",
            "set",
            "eth0",
            "down",
        ])
    }

    /// Sets a host's end of its link up again.
    ///
    /// # Errors
    /// The command that failed.
    pub fn set_link_up(&self, host: usize) -> Result<(), String> {
        ip(&[
            "-n",
            &self.hosts[host].namespace,
            "link",
            "set",
            "eth0",
            "up",
        ])
    }

    /// Whether the network hands a host what is sent to groups; all else arrives in any case.
    ///
    /// # Errors
    /// The command that failed.
    pub fn set_hears_groups(&self, host: usize, hears: bool) -> Result<(), String> {
        let port = self.hosts[host].port.as_str();
        let state = if hears { "on" } else { "off" };
        let words = ["type", "bridge_slave", "mcast_flood", state];
        ip(&[&["-n", &self.hub, "link", "set", "dev", port], &words[..]].concat())
    }

    /// How many bytes a host has sent through its link, headers and all.
    ///
    /// # Errors
    /// What could not be read.
    pub fn bytes_sent(&self, host: usize) -> Result<u64, String> {
        let file = "/sys/class/net/eth0/statistics/tx_bytes";
        let output = self.hosts[host].command("cat").arg(file).output();
        let output = output.map_err(|error| format!("ip does not start: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        text.trim()
            .parse()
            .map_err(|_| format!("{file}: {text} {}", said()))
    }

    /// Takes a host's link away altogether, with its address.
    ///
    /// # Errors
    /// The command that failed.
    pub fn remove_link(&self, host: usize) -> Result<(), String> {
        ip(&["-n", &self.hosts[host].namespace, "link", "del", "eth0"])
    }

    /// Gives a host a new link with its old address.
    ///
    /// # Errors
    /// The command that failed.
    pub fn restore_link(&self, host: usize) -> Result<(), String> {
        self.add_link(&self.hosts[host])
    }

    fn add_link(&self, host: &Host) -> Result<(), String> {
        let (hub, namespace) = (self.hub.as_str(), host.namespace.as_str());
        let address = format!("{}/24", host.address);
        let port = host.port.as_str();
        // The same hardware address each time, or neighbours go on sending to the old one.
        let hardware = format!("02:00:00:00:00:{:02x}", host.address.octets()[3]);
        let peer = ["peer", "name", "eth0", "netns", namespace];
        ip(&[&["-n", hub, "link", "add", port, "type", "veth"], &peer[..]].concat())?;
        ip(&["-n", hub, "link", "set", port, "master", "bridge0"])?;
        ip(&["-n", hub, "link", "set", port, "up"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "address", &hardware])?;
        ip(&["-n", namespace, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            delete(&host.namespace);
        }
        delete(&self.hub);
    }
}

impl Host {
    /// A command that runs `program` on this host; the process is `program` itself.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program);
        command
    }

    /// The words that go before a program to run it on this host.
    pub fn wrapper(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace]
            .map(str::to_owned)
            .into()
    }
}

/// Whether namespaces can be made here.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), Missing> {
    if !crate::gate::has_program("ip", "-Version") {
        return Err(Missing::new(
            "the command ip is not there",
            "install iproute2",
        ));
    }
    if !crate::gate::is_root() {
        return Err(Missing::new("network namespaces need root", "run as root"));
    }
    match Network::build(1) {
        Ok(_) => Ok(()),
        Err(why) => {
            let why = format!("network namespaces cannot be made ({why})");
            Err(Missing::new(
                why,
                "run with CAP_NET_ADMIN and CAP_SYS_ADMIN",
            ))
        }
    }
}

/// Removes the namespaces of runs whose process is gone.
fn remove_stale() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else {
        return;
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or("");
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let is_stale = owner.is_some_and(|process| !Path::new("/proc").join(process).exists());
        if is_stale {
            delete(name);
        }
    }
}

fn delete(namespace: &str) {
    // It may never have been made; what is left is removed by the next run.
    let mut command = Command::new("ip");
    command
        .args(["netns", "del", namespace])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    drop(command.status());
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output();
    let output = output.map_err(|error| format!("ip does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`ip {}`: {}", words.join(" "), said.trim()))
}
