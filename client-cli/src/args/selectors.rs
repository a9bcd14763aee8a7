//! The options that say which processes are meant: takes what was typed,
//! produces targets of the API.

use netio::v1::{self, target::Selector};

/// Any number of selectors.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Selectors {
    /// A process, by id; more than one separated by commas.
    #[arg(long = "pid", value_name = "PID", value_delimiter = ',', value_parser = pid)]
    pids: Vec<u32>,
    /// The processes with this name: that of ps -e, of the program's file, or its
    /// whole path.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// The processes that listen on this TCP port.
    #[arg(long = "port", value_name = "PORT", value_parser = port)]
    ports: Vec<u16>,
    /// The processes in this cgroup and below it, such as /system.slice.
    #[arg(long = "cgroup", value_name = "PATH")]
    cgroups: Vec<String>,
    /// The processes of this systemd unit, such as mariadb.service.
    #[arg(long = "unit", value_name = "NAME.service")]
    units: Vec<String>,
    /// The processes in this container, by its id or the first 12 digits of it.
    #[arg(long = "container", value_name = "ID")]
    containers: Vec<String>,
    /// A watch that exists, whoever made it, by its id as netio-client list shows
    /// it; can be repeated.
    #[arg(
        long = "watch-id",
        value_name = "WATCH_ID",
        conflicts_with_all = [
            "pids", "names", "ports", "cgroups", "units", "containers", "wait", "follow_children",
            "no_follow_children", "detach", "hooks", "interval"
        ]
    )]
    watch_ids: Vec<String>,
}

impl Selectors {
    /// The watches that are named instead of processes.
    pub(crate) fn watch_ids(&self) -> Vec<String> {
        self.watch_ids.clone()
    }

    /// What they select, kind by kind, each kind in the order given.
    pub(crate) fn targets(&self, follow_children: Option<bool>) -> Vec<v1::Target> {
        let pids = self.pids.iter().copied().map(Selector::Pid);
        let names = self.names.iter().cloned().map(Selector::Name);
        let ports = self.ports.iter().map(|port| Selector::Port((*port).into()));
        let cgroups = self.cgroups.iter().cloned().map(Selector::Cgroup);
        let units = self.units.iter().cloned().map(Selector::Unit);
        let containers = self.containers.iter().cloned().map(Selector::Container);
        let selectors = pids.chain(names).chain(ports);
        let selectors = selectors.chain(cgroups).chain(units).chain(containers);
        selectors
            .map(|selector| v1::Target {
                follow_children,
                ..v1::Target::new(selector)
            })
            .collect()
    }
}

/// One selector at most.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct OneSelector {
    /// End all watches that you made for this process.
    #[arg(long, value_name = "PID", value_parser = pid)]
    pid: Option<u32>,
    /// End all watches that you made for this name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// End all watches that you made for this TCP port.
    #[arg(long, value_name = "PORT", value_parser = port)]
    port: Option<u16>,
    /// End all watches that you made for this cgroup.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// End all watches that you made for this systemd unit.
    #[arg(long, value_name = "NAME.service")]
    unit: Option<String>,
    /// End all watches that you made for this container.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
}

impl OneSelector {
    /// What it selects.
    pub(crate) fn target(self) -> Option<v1::Target> {
        let selector = self
            .pid
            .map(Selector::Pid)
            .or(self.name.map(Selector::Name))
            .or(self.port.map(|port| Selector::Port(port.into())))
            .or(self.cgroup.map(Selector::Cgroup))
            .or(self.unit.map(Selector::Unit))
            .or(self.container.map(Selector::Container));
        selector.map(v1::Target::new)
    }
}

/// The kernel's pids are positive numbers of 31 bits.
fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(pid) if (1..=i32::MAX.unsigned_abs()).contains(&pid) => Ok(pid),
        _ => Err(format!("a pid is a number from 1 to {}", i32::MAX)),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("a port is a number from 1 to {}", u16::MAX)),
    }
}
