//! Scans, of a /proc made of files.

use std::{collections::BTreeSet, fmt::Write as _};

use netio::v1;

use crate::kernel::ProcessId;

use super::{
    super::{
        Ancestry, FindError, ProcFs, Processes as _, Search, Selector, candidate::Candidate,
        entry::Entry, listeners, proc_fs::Seen,
    },
    fixture::{ProcFolder, ProcTree, stat},
};

const TICK: u64 = 10_000_000;
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "0123456789abffff0123456789abcdef0123456789abcdef0123456789abcdef";

fn name(name: &str) -> Selector {
    Selector::Name(name.to_owned())
}

fn selected(proc: &ProcFs, rule: &Selector) -> Vec<u32> {
    let mut selected = proc.select(&[search(rule, &[])]).unwrap();
    let selected = selected.remove(0).unwrap();
    selected.iter().map(|seen| seen.pid).collect()
}

/// A search for a rule; these processes, as `ProcTree` starts them, are known.
fn search(rule: &Selector, known: &[ProcessId]) -> Search {
    Search {
        rule: rule.clone(),
        known: known.iter().copied().collect(),
    }
}

/// That each process is selected by exactly those rules that it matches by itself.
fn consistent(tree: &ProcTree, pids: &[u32], rule: &Selector) {
    let selected = selected(&tree.proc_fs(), rule);
    for pid in pids {
        let entry = Entry::open(tree.path(), *pid).unwrap();
        let matches = Candidate::new(&entry).matches(rule);
        assert_eq!(matches, selected.contains(pid), "{pid}, {rule}");
    }
}

#[test]
fn a_name_is_the_process_s_or_its_executable_s_or_that_one_s_path() {
    let tree = ProcTree::new();
    tree.process(7, "mariadbd").executable("/usr/sbin/mariadbd");
    tree.process(8, "one_connection")
        .executable("/usr/sbin/mariadbd (deleted)");
    tree.process(9, "mariadbd-safe").executable("/usr/bin/dash");
    // A kernel thread has no executable.
    tree.process(10, "kthreadd");
    tree.process(11, "a-name-of-15-by")
        .executable("/opt/a-name-of-15-bytes-and-more");
    let proc = tree.proc_fs();
    let cases: [(&str, &[u32]); 10] = [
        ("mariadbd", &[7, 8]),
        ("one_connection", &[8]),
        ("/usr/sbin/mariadbd", &[7, 8]),
        ("/mariadbd", &[]),
        ("sbin/mariadbd", &[]),
        ("maria", &[]),
        ("kthreadd", &[10]),
        ("a-name-of-15-by", &[11]),
        ("a-name-of-15-bytes-and-more", &[11]),
        ("dash", &[9]),
    ];
    for (wanted, pids) in cases {
        assert_eq!(selected(&proc, &name(wanted)), pids, "{wanted}");
        consistent(&tree, &[7, 8, 9, 10, 11], &name(wanted));
    }
}

#[test]
fn a_port_is_looked_for_in_every_network_namespace() {
    let tree = ProcTree::new();
    let first = |folder: ProcFolder| {
        folder
            .network("net:[1]", &[(3306, 70), (5432, 71)])
            .file("net/tcp6", "  sl\n   0: 0:1538 0:0000 0A 0 0 0 0 0 72 1\n")
    };
    first(tree.process(7, "server")).holds(&[70, 71, 99]);
    first(tree.process(8, "worker")).holds(&[70]);
    first(tree.process(11, "idle")).holds(&[]);
    tree.process(9, "container")
        .network("net:[2]", &[(3306, 73)])
        .holds(&[73]);
    // Holds a socket of another namespace than its own.
    tree.process(10, "proxy")
        .network("net:[3]", &[])
        .holds(&[72]);
    let proc = tree.proc_fs();
    assert_eq!(selected(&proc, &Selector::Port(3306)), [7, 8, 9]);
    assert_eq!(selected(&proc, &Selector::Port(5432)), [7, 10]);
    assert_eq!(selected(&proc, &Selector::Port(80)), [0; 0]);
    consistent(&tree, &[7, 9, 11], &Selector::Port(3306));
}

#[test]
fn a_network_namespace_is_read_once_by_a_process_that_is_there() {
    let tree = ProcTree::new();
    // Exits before its table can be read.
    tree.process(6, "gone").link("ns/net", "net:[1]");
    tree.process(7, "first").network("net:[1]", &[(3306, 70)]);
    tree.process(8, "next").network("net:[1]", &[(3306, 99)]);
    tree.process(9, "other").network("net:[2]", &[(3306, 71)]);
    tree.process(10, "nowhere");
    let entries = (6..=10).map(|pid| Entry::open(tree.path(), pid));
    let expected = listeners::Listeners::from([(70, 3306), (71, 3306)]);
    assert_eq!(listeners::of_all(entries).unwrap(), expected);
}

#[test]
fn cgroups_and_units_are_told_by_the_path() {
    let tree = ProcTree::new();
    let service = "0::/system.slice/mariadb.service\n";
    tree.process(7, "a").file("cgroup", service);
    let below = "0::/system.slice/mariadb.service/x\n";
    tree.process(8, "b").file("cgroup", below);
    let v1 = "4:memory:/\n1:name=systemd:/system.slice/mariadb.service\n0::/\n";
    tree.process(9, "c").file("cgroup", v1);
    tree.process(10, "d")
        .file("cgroup", b"0::/system.slice2/\xff\n");
    // A kernel without cgroups has no such file.
    tree.process(11, "e");
    let cgroup = |path: &str| Selector::Cgroup(path.to_owned());
    let unit = |unit: &str| Selector::Unit(unit.to_owned());
    let cases: [(Selector, &[u32]); 6] = [
        (cgroup("/system.slice/mariadb.service"), &[7, 8, 9]),
        (cgroup("/system.slice"), &[7, 8, 9]),
        (cgroup("/system.slice/maria"), &[]),
        (cgroup("/system.slice2"), &[10]),
        (unit("mariadb.service"), &[7, 8, 9]),
        (unit("system.slice"), &[7, 8, 9]),
    ];
    for (rule, pids) in cases {
        assert_eq!(selected(&tree.proc_fs(), &rule), pids, "{rule}");
        consistent(&tree, &[7, 8, 9, 10, 11], &rule);
    }
}

#[test]
fn a_container_is_told_by_its_id_or_enough_of_it() {
    let tree = ProcTree::new();
    let docker = format!("0::/system.slice/docker-{ID}.scope\n");
    tree.process(7, "a").file("cgroup", &docker);
    tree.process(8, "b").file("cgroup", docker);
    let other = format!("4:memory:/docker/{OTHER}\n");
    tree.process(9, "c").file("cgroup", other);
    let container = |digits: usize| Selector::Container(ID[..digits].to_owned());
    let proc = tree.proc_fs();
    for digits in [13, 64] {
        assert_eq!(selected(&proc, &container(digits)), [7, 8]);
        consistent(&tree, &[7, 8, 9], &container(digits));
    }
    match proc.matching(&container(12)) {
        Err(FindError::Ambiguous { container, ids }) => {
            assert_eq!(container, "0123456789ab");
            assert_eq!(ids, [ID, OTHER]);
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("found"),
    }
}

#[test]
fn several_rules_are_searched_for_at_once_and_not_what_is_known() {
    let tree = ProcTree::new();
    let docker = format!("0::/system.slice/docker-{ID}.scope\n");
    tree.process(7, "a").file("cgroup", &docker);
    tree.process(8, "b").file("cgroup", &docker);
    let other = format!("4:memory:/docker/{OTHER}\n");
    tree.process(9, "a").file("cgroup", other);
    let proc = tree.proc_fs();
    let seen = |pid: u32| {
        let all = proc.select(&[search(&name("a"), &[])]).unwrap().remove(0);
        let seen = all.unwrap().into_iter().find(|seen| seen.pid == pid);
        seen.unwrap().start_time_ns
    };
    let known = ProcessId {
        tgid: 7,
        start_time_ns: seen(7),
    };
    let earlier = ProcessId {
        tgid: 9,
        start_time_ns: seen(9) + TICK,
    };
    let container = |digits: usize| Selector::Container(ID[..digits].to_owned());
    let searches = [
        search(&name("a"), &[known, earlier]),
        search(&name("b"), &[known]),
        search(&container(13), &[known]),
        // Whoever is known already, the digits do not name one container.
        search(&container(12), &[known]),
        search(&Selector::Port(1), &[]),
    ];
    let told = proc.select(&searches).unwrap().into_iter().map(|selected| {
        let pids = selected.map(|it| it.iter().map(|seen| seen.pid).collect::<Vec<_>>());
        pids.map_err(|error| error.to_string().contains("fits 2 containers"))
    });
    let expected = [Ok(vec![9]), Ok(vec![8]), Ok(vec![8]), Err(true), Ok(vec![])];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert!(proc.select(&[]).unwrap().is_empty());
}

#[test]
fn descendants_are_found_at_any_depth_and_oldest_first() {
    let tree = ProcTree::new();
    for (pid, parent, start) in [
        (7, 1, 100),
        (8, 7, 300),
        (9, 7, 200),
        (10, 9, 300),
        (20, 1, 150),
        (21, 20, 160),
    ] {
        let line = stat(pid, 'S', parent, start);
        tree.process(pid, "x").stat(&line);
    }
    tree.process(30, "broken").stat("nonsense");
    let proc = tree.proc_fs();
    let start = |pid: u32| match pid {
        7 => 100,
        9 => 200,
        20 => 150,
        _ => 300,
    };
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    let ids = |of: &[u32], later: u64| {
        let ids = of.iter().map(|pid| ProcessId {
            tgid: *pid,
            start_time_ns: (start(*pid) + later) * tick,
        });
        ids.collect::<BTreeSet<_>>()
    };
    let roots = |roots| Ancestry {
        roots,
        ..Ancestry::default()
    };
    let pids = |seen: &BTreeSet<Seen>| seen.iter().map(|seen| seen.pid).collect::<Vec<_>>();
    let below = |of: &[u32]| {
        let below = proc.below(&[roots(ids(of, 0))]).unwrap();
        pids(&below[0])
    };
    assert_eq!(below(&[7]), [9, 8, 10]);
    assert_eq!(below(&[7, 9]), [9, 8, 10]);
    assert_eq!(below(&[7, 20]), [21, 9, 8, 10]);
    assert_eq!(below(&[10, 999]), [0; 0]);
    assert_eq!(below(&[]), [0; 0]);
    // Another process has the pid now.
    assert!(proc.below(&[roots(ids(&[7], 1))]).unwrap()[0].is_empty());
    // Several at once; below those that are known one looks on.
    let known = Ancestry {
        roots: ids(&[7], 0),
        known: ids(&[9, 8], 0),
    };
    let below = proc.below(&[known, roots(ids(&[9, 20], 0))]).unwrap();
    let below: Vec<_> = below.iter().map(pids).collect();
    assert_eq!(below, [vec![10], vec![21, 10]]);
}

#[test]
fn a_forked_process_is_described_if_it_is_that_one_and_runs() {
    let tree = ProcTree::new();
    tree.process(7, "postgres")
        .file("status", b"Name:\t\xff:x\nTgid:\t7\nNSpid:\t7\t3\n")
        .file("cgroup", b"0::/a/\x1b\xff\n");
    let proc = tree.proc_fs();
    let expected = v1::Process {
        pid: 7,
        start_time_ns: 7 * TICK,
        name: "postgres".to_owned(),
        container_pid: 3,
        cgroup: "/a/\u{FFFD}\u{FFFD}".to_owned(),
    };
    assert_eq!(proc.describe(7, 7 * TICK), Some(expected.clone()));
    assert_eq!(proc.describe(7, 8 * TICK - 1), Some(expected));
    assert_eq!(proc.describe(7, 7 * TICK - 1), None);
    assert_eq!(proc.describe(7, 8 * TICK), None);
    assert_eq!(proc.describe(8, 8 * TICK), None);
    tree.process(9, "zombie").stat(&stat(9, 'Z', 1, 9));
    assert_eq!(proc.describe(9, 9 * TICK), None);
    // Only its first thread has exited.
    let leader = stat(10, 'Z', 1, 10).replace(" 20 0 1 0 ", " 20 0 2 0 ");
    tree.process(10, "leader").stat(&leader);
    assert!(proc.describe(10, 10 * TICK).is_some());
}

#[test]
fn databases_are_found_with_all_that_is_to_tell() {
    let tree = ProcTree::new();
    tree.process(1, "systemd").network("net:[1]", &[(3306, 70)]);
    tree.process(20, "postgres")
        .executable("/usr/lib/postgresql/15/bin/postgres")
        .file("cgroup", format!("0::/system.slice/docker-{ID}.scope\n"))
        .network("net:[2]", &[(5432, 80)])
        .holds(&[80, 99]);
    tree.process(21, "postgres").stat(&stat(21, 'S', 20, 21));
    tree.process(22, "redis-server").stat(&stat(22, 'Z', 1, 22));
    tree.process(7, "mysqld")
        .executable("/usr/sbin/mariadbd (deleted)")
        .file("cgroup", "0::/system.slice/mariadb.service\n")
        .holds(&[70]);
    let mut told = String::new();
    for it in tree.proc_fs().databases().unwrap() {
        let process = it.process.unwrap();
        let target = it.target.unwrap().selector.unwrap();
        let (pid, name, ports) = (process.pid, process.name, it.ports);
        let (engine, unit, container) = (it.engine, it.unit, it.container);
        writeln!(
            told,
            "{pid} {name} {engine} {ports:?} {unit} {container} {target:?}"
        )
        .unwrap();
    }
    let expected = format!(
        "7 mysqld MariaDB [3306] mariadb.service  Port(3306)\n\
         20 postgres PostgreSQL [5432] docker-{ID}.scope {ID} Port(5432)\n"
    );
    assert_eq!(told, expected);
}

#[test]
fn a_proc_that_cannot_be_listed_is_an_error_and_no_lack_of_processes() {
    let proc = ProcFs::new("/nonexistent");
    let rules = [
        name("x"),
        Selector::Port(1),
        Selector::Container("0".repeat(12)),
    ];
    for rule in rules {
        let error = proc.matching(&rule).err().unwrap();
        assert!(matches!(error, FindError::ProcUnreadable { .. }), "{error}");
    }
    assert!(proc.databases().is_err());
    assert!(proc.descendants(&[]).is_err());
}

#[test]
fn what_is_no_process_or_vanishes_is_passed_over() {
    let tree = ProcTree::new();
    tree.process(7, "x");
    tree.process(8, "x").stat("nonsense");
    tree.file("cpuinfo");
    assert_eq!(selected(&tree.proc_fs(), &name("x")), [7]);
}
