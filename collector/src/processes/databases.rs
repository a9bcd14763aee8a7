//! Knows database servers by the names of their programs.
//!
//! Takes the processes that run such a program, and the sockets that listen;
//! produces a [`v1::Database`] for each server. A server that consists of several
//! processes, as PostgreSQL does, is told once, by the parent of them all.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::successors,
};

use netio::v1;

use super::listeners::Listeners;

/// More than that are not told.
const MAX_DATABASES: usize = 1024;
/// The kernel cuts names of processes.
const COMM_LENGTH: usize = 15;

/// The engines by the names of their programs.
const ENGINES: [(&str, &str); 18] = [
    ("mariadbd", "MariaDB"),
    ("mysqld", "MySQL"),
    ("postgres", POSTGRESQL),
    ("postmaster", POSTGRESQL),
    ("edb-postgres", POSTGRESQL),
    ("redis-server", "Redis"),
    ("valkey-server", "Valkey"),
    ("keydb-server", "KeyDB"),
    ("dragonfly", "Dragonfly"),
    ("mongod", "MongoDB"),
    ("mongos", "MongoDB"),
    ("memcached", "Memcached"),
    ("clickhouse-server", "ClickHouse"),
    ("sqlservr", "SQL Server"),
    ("cockroach", "CockroachDB"),
    ("tidb-server", "TiDB"),
    ("tikv-server", "TiKV"),
    ("influxd", "InfluxDB"),
];
const POSTGRESQL: &str = "PostgreSQL";

/// A process that runs a database's program.
pub(super) struct Server {
    pub(super) process: v1::Process,
    pub(super) parent: u32,
    pub(super) engine: &'static str,
    /// The inodes of the sockets that it holds.
    pub(super) sockets: BTreeSet<u64>,
    pub(super) container: String,
    pub(super) unit: String,
}

/// Which database a process serves, by the file name of its executable, or else
/// by its name. The former comes first: MariaDB may be started as mysqld.
pub(super) fn engine(comm: &[u8], executable: &[u8]) -> Option<&'static str> {
    let by = |is: &dyn Fn(&[u8]) -> bool| {
        let mut engines = ENGINES.iter();
        engines.find(|(name, _)| is(name.as_bytes()))
    };
    by(&|name| name == executable)
        .or_else(|| by(&|name| name.get(..COMM_LENGTH).unwrap_or(name) == comm))
        .map(|(_, engine)| *engine)
}

/// Whether a process with these names serves each connection by a child.
pub(super) fn forks_per_connection(comm: &[u8], executable: &[u8]) -> bool {
    engine(comm, executable) == Some(POSTGRESQL)
}

/// The databases that these processes make up, in order of pid.
pub(super) fn databases(servers: Vec<Server>, listeners: &Listeners) -> Vec<v1::Database> {
    let parents = parents_of_the_same_engine(&servers);
    let head_of = |pid: u32| {
        let ancestors = successors(Some(pid), |pid| parents.get(pid).copied());
        // Pids that are reused while they are read could make a circle.
        ancestors.take(servers.len()).last()
    };
    let mut sockets: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for server in &servers {
        if let Some(head) = head_of(server.process.pid) {
            sockets.entry(head).or_default().extend(&server.sockets);
        }
    }
    let mut databases: Vec<_> = servers
        .into_iter()
        .filter(|server| !parents.contains_key(&server.process.pid))
        .map(|server| {
            let held = sockets.remove(&server.process.pid).unwrap_or_default();
            database(server, &held, listeners)
        })
        .collect();
    databases.sort_by_key(|it| it.process.as_ref().map(|process| process.pid));
    databases.truncate(MAX_DATABASES);
    databases
}

/// The parent of each process that belongs to its parent's server.
fn parents_of_the_same_engine(servers: &[Server]) -> BTreeMap<u32, u32> {
    let by_pid: BTreeMap<_, _> = servers.iter().map(|it| (it.process.pid, it)).collect();
    let belongs = |server: &&Server| {
        by_pid.get(&server.parent).is_some_and(|parent| {
            // What is younger has taken the pid of a parent that was gone.
            let is_older = parent.process.start_time_ns <= server.process.start_time_ns;
            parent.engine == server.engine && is_older
        })
    };
    servers
        .iter()
        .filter(belongs)
        .map(|server| (server.process.pid, server.parent))
        .collect()
}

fn database(server: Server, held: &BTreeSet<u64>, listeners: &Listeners) -> v1::Database {
    let ports: BTreeSet<u16> = held
        .iter()
        .filter_map(|socket| listeners.get(socket).copied())
        .collect();
    // Anybody's socket counts: what forwards a port to a container listens on it
    // too, and the target would match both.
    let listens_alone = |port: &&u16| {
        let mut others = listeners.iter().filter(|(_, other)| other == port);
        others.all(|(socket, _)| held.contains(socket))
    };
    let target = match ports.iter().find(listens_alone) {
        Some(port) => v1::Target::port(*port),
        None => v1::Target::pid(server.process.pid),
    };
    v1::Database {
        process: Some(server.process),
        engine: server.engine.to_owned(),
        ports: ports.into_iter().map(u32::from).collect(),
        container: server.container,
        unit: server.unit,
        target: Some(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(pid: u32, parent: u32, engine: &'static str, sockets: &[u64]) -> Server {
        Server {
            process: v1::Process {
                pid,
                start_time_ns: u64::from(pid) * 10,
                ..v1::Process::default()
            },
            parent,
            engine,
            sockets: sockets.iter().copied().collect(),
            container: String::new(),
            unit: String::new(),
        }
    }

    /// What is told of each: pid, ports, target.
    fn told(servers: Vec<Server>, listeners: &[(u64, u16)]) -> Vec<(u32, Vec<u32>, v1::Target)> {
        let listeners = listeners.iter().copied().collect();
        databases(servers, &listeners)
            .into_iter()
            .map(|it| (it.process.unwrap().pid, it.ports, it.target.unwrap()))
            .collect()
    }

    #[test]
    fn engines_are_known_by_executable_and_by_name() {
        let cases: [(&str, &str, Option<&str>); 9] = [
            ("mariadbd", "mariadbd", Some("MariaDB")),
            ("mysqld", "mariadbd", Some("MariaDB")),
            ("mysqld", "mysqld", Some("MySQL")),
            ("clickhouse-serv", "clickhouse", Some("ClickHouse")),
            ("clickhouse-server", "clickhouse", None),
            ("redis-main", "redis-server", Some("Redis")),
            ("postgres", "", Some("PostgreSQL")),
            ("mysqld_safe", "dash", None),
            ("", "", None),
        ];
        for (comm, executable, expected) in cases {
            let engine = engine(comm.as_bytes(), executable.as_bytes());
            assert_eq!(engine, expected, "{comm} {executable}");
        }
        assert!(forks_per_connection(b"postmaster", b""));
        assert!(forks_per_connection(b"x", b"edb-postgres"));
        assert!(!forks_per_connection(b"mariadbd", b"mariadbd"));
    }

    #[test]
    fn a_server_is_told_once_with_what_its_children_listen_on() {
        let servers = vec![
            server(30, 20, "PostgreSQL", &[3]),
            server(21, 20, "PostgreSQL", &[]),
            server(20, 1, "PostgreSQL", &[1, 2]),
            server(22, 20, "Redis", &[]),
            server(31, 30, "PostgreSQL", &[4]),
        ];
        let told = told(servers, &[(1, 5432), (2, 5432), (4, 5433), (9, 80)]);
        let postgresql = (20, vec![5432, 5433], v1::Target::port(5432));
        let redis = (22, vec![], v1::Target::pid(22));
        assert_eq!(told, [postgresql, redis]);
    }

    #[test]
    fn a_port_of_others_too_names_no_server() {
        let mariadb = |pid, sockets: &[u64]| server(pid, 1, "MariaDB", sockets);
        // In two network namespaces; then one that is forwarded by a proxy.
        let servers = vec![mariadb(7, &[1]), mariadb(8, &[2]), mariadb(9, &[3, 4])];
        let listeners = [(1, 3306), (2, 3306), (3, 3307), (4, 3308), (5, 3307)];
        let expected = [
            (7, vec![3306], v1::Target::pid(7)),
            (8, vec![3306], v1::Target::pid(8)),
            (9, vec![3307, 3308], v1::Target::port(3308)),
        ];
        assert_eq!(told(servers, &listeners), expected);
    }

    #[test]
    fn reused_pids_make_no_circle() {
        let mut older = server(7, 8, "Redis", &[]);
        let younger = server(8, 7, "Redis", &[]);
        older.process.start_time_ns = 10;
        let pids: Vec<_> = told(vec![older, younger], &[]);
        assert_eq!(pids, [(7, vec![], v1::Target::pid(7))]);
    }

    #[test]
    fn no_more_than_the_limit_are_told() {
        let servers = (1..=2000).map(|pid| server(pid, 0, "Redis", &[])).collect();
        let told = told(servers, &[]);
        assert_eq!(told.len(), MAX_DATABASES);
        assert_eq!(told[1023].0, 1024);
    }
}
