//! Real processes of this machine: one, by name, and trees.

use std::{collections::BTreeSet, process::Command, time::Duration};

use super::{
    super::{FindError, ProcFs, Processes as _, Selector},
    fixture::{ProcTree, stat},
    running::{Running, below, eventually, ids, pids, set, sleeper},
};

/// A /proc whose only process is this one, with the given files.
fn proc_with(stat: &str, comm: &[u8]) -> (ProcTree, ProcFs) {
    let tree = ProcTree::new();
    tree.process(std::process::id(), "")
        .stat(stat)
        .file("comm", comm);
    let proc = tree.proc_fs();
    (tree, proc)
}

fn name(name: &str) -> Selector {
    Selector::Name(name.to_owned())
}

#[tokio::test]
async fn a_hostile_name_is_made_printable() {
    let (_tree, proc) = proc_with(&stat(7, 'S', 3, 4242), b"\x1b[2J\nx\xff\n");
    let found = proc.find(std::process::id()).unwrap();
    assert_eq!(found.process.name, "\u{FFFD}[2J\u{FFFD}x\u{FFFD}");
    assert_eq!(
        found.process.start_time_ns,
        4242 * (1_000_000_000 / rustix::param::clock_ticks_per_second())
    );
}

#[tokio::test]
async fn a_broken_stat_is_an_error_and_no_process() {
    let (_tree, proc) = proc_with("nonsense", b"x\n");
    let error = proc.find(std::process::id()).err().unwrap();
    assert!(matches!(error, FindError::Unreadable { .. }), "{error}");
}

#[tokio::test]
async fn a_real_process_is_found_and_its_exit_noticed() {
    let mut child = Running::sleep();
    let pid = child.pid();
    let proc = ProcFs::new("/proc");
    let found = proc.find(pid).unwrap();
    assert_eq!(found.process.pid, pid);
    assert!(found.process.start_time_ns > 0);
    assert_ne!(found.process.container_pid, 0);
    assert!(!found.forks_per_connection);
    let start = found.process.start_time_ns;
    let described = proc.describe(pid, start).unwrap();
    assert_eq!(described.container_pid, found.process.container_pid);
    assert_eq!(proc.describe(pid, start + 1_000_000_000), None);

    let mut exited = found.exited;
    let still_running = tokio::time::timeout(Duration::from_millis(50), &mut exited).await;
    assert!(still_running.is_err());
    child.0.kill().unwrap();
    tokio::time::timeout(Duration::from_secs(10), exited)
        .await
        .expect("the exit is noticed");

    // A zombie has exited already.
    let zombie = proc.find(pid).err().unwrap();
    assert!(matches!(zombie, FindError::NotFound(_)), "{zombie}");
    assert_eq!(proc.describe(pid, start), None);
    assert!(proc.matches(pid, &[name("sleep")]).is_none());
    let own = below(&proc, ids(&proc, &[std::process::id()]));
    assert!(!pids(&own).contains(&pid));
    child.0.wait().unwrap();
    let gone = proc.find(pid).err().unwrap();
    assert!(matches!(gone, FindError::NotFound(_)), "{gone}");
}

#[tokio::test]
async fn a_thread_is_told_from_its_process() {
    let (tell, told) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(rustix::thread::gettid()).unwrap();
        wait.recv().unwrap_err();
    });
    let tid = told.recv().unwrap().as_raw_nonzero().get().unsigned_abs();
    let error = ProcFs::new("/proc").find(tid).err().unwrap();
    drop(done);
    thread.join().unwrap();
    match error {
        FindError::Thread { pid, leader } => {
            assert_eq!((pid, leader), (tid, std::process::id()));
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn pids_out_of_range_are_not_found() {
    let proc = ProcFs::new("/proc");
    for pid in [0, u32::MAX, i32::MAX.unsigned_abs()] {
        let error = proc.find(pid).err().unwrap();
        assert!(matches!(error, FindError::NotFound(_)), "{error}");
        let error = proc.matching(&Selector::Pid(pid)).err().unwrap();
        assert!(matches!(error, FindError::NotFound(_)), "{error}");
        assert!(proc.matches(pid, &[name("x")]).is_none());
        assert_eq!(proc.describe(pid, 0), None);
    }
}

#[tokio::test]
async fn real_processes_are_found_by_name_though_their_program_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    // Unique to this run, and longer than the kernel's name of a process.
    let program = format!("netio-{}-sleeps", std::process::id());
    let path = folder.path().join(&program);
    sleeper(&path);
    let run = || Running::start(Command::new(&path).arg("60"));
    let (first, second) = (run(), run());
    let both = set(&[first.pid(), second.pid()]);
    let names = [&program[..15], &program, path.to_str().unwrap()].map(name);
    let proc = ProcFs::new("/proc");
    let all_find_both = || {
        names.iter().all(|name| {
            let found = proc.matching(name).unwrap();
            pids(&found).into_iter().collect::<BTreeSet<_>>() == both
        })
    };
    eventually("both run, and each name finds both", all_find_both);
    std::fs::remove_file(&path).unwrap();
    assert!(all_find_both());

    let [comm, file_name, path] = names;
    let rules = [name("other"), comm, Selector::Port(1), path, file_name];
    let (matched, found) = proc.matches(second.pid(), &rules).unwrap();
    assert_eq!(matched, [1, 3, 4]);
    assert_eq!(found.process.pid, second.pid());
    assert!(proc.matches(second.pid(), &rules[..1]).is_none());
    assert!(proc.matches(second.pid(), &[]).is_none());
}

#[tokio::test]
async fn every_descendant_of_a_real_process_is_found() {
    let tree = Running::script("sleep 60 & (sleep 60 & sleep 60; :) & echo; wait");
    let other = Running::sleep();
    let proc = ProcFs::new("/proc");
    let of = ids(&proc, &[tree.pid()]);
    eventually("all of them have started", || {
        below(&proc, of.clone()).len() >= 4
    });
    let found = below(&proc, of);
    let known = set(&[&pids(&found)[..], &[tree.pid()]].concat());
    assert!(found.is_sorted_by_key(|it| (it.process.start_time_ns, it.process.pid)));
    assert!(!known.contains(&other.pid()));
    let own = below(&proc, ids(&proc, &[std::process::id()]));
    let own = set(&pids(&own));
    assert!(known.is_subset(&own) && own.contains(&other.pid()));
    assert!(!own.contains(&std::process::id()));
}

#[tokio::test]
async fn a_real_postgres_forks_per_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postgres");
    sleeper(&path);
    let server = Running::start(Command::new(&path).arg("60"));
    let proc = ProcFs::new("/proc");
    let found = || proc.find(server.pid()).unwrap();
    eventually("it runs its program", || found().process.name == "postgres");
    assert!(found().forks_per_connection);

    let databases = proc.databases().unwrap();
    let told = databases
        .into_iter()
        .find(|it| it.process.as_ref().unwrap().pid == server.pid())
        .unwrap();
    assert_eq!(told.engine, "PostgreSQL");
    assert_eq!(told.ports, [0; 0]);
    assert_eq!(told.target, Some(netio::v1::Target::pid(server.pid())));
}
