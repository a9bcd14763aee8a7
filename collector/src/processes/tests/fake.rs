//! The fake answers as the real one does.

use netio::v1;

use crate::kernel::ProcessId;

use super::{
    super::{FindError, Processes as _, Selector, fake::FakeProcesses},
    running::{below, ids, pids},
};

#[tokio::test]
async fn fake_processes_match_exec_fork_listen_and_exit() {
    let fake = FakeProcesses::default();
    let first = fake.start(9, 1);
    fake.start_as(8, 2, "postgres", 1);
    fake.start_as(7, 2, "postgres", 8);
    fake.listen(8, 5432);
    fake.move_to(8, "/system.slice/db.service");
    let name = |name: &str| Selector::Name(name.to_owned());
    let unit = Selector::Unit("db.service".to_owned());
    let cgroup = Selector::Cgroup("/system.slice".to_owned());
    let matching = |rule: &Selector| pids(&fake.matching(rule).unwrap());
    assert_eq!(matching(&name("postgres")), [7, 8]);
    assert_eq!(matching(&Selector::Pid(9)), [9]);
    for rule in [&unit, &cgroup, &Selector::Port(5432)] {
        assert_eq!(matching(rule), [8]);
    }
    assert_eq!(matching(&name("x")), [0; 0]);

    fake.exec(9, "x");
    let rules = [unit, name("x"), Selector::Port(1)];
    let (matched, found) = fake.matches(9, &rules).unwrap();
    assert_eq!((matched, found.process.name.as_str()), (vec![1], "x"));
    assert!(fake.matches(7, &rules).is_none());

    fake.start_as(1, 0, "init", 0);
    let under = |of: &[u32]| pids(&below(&fake, ids(&fake, of)));
    assert_eq!(under(&[1]), [9, 7, 8]);
    // The pid of one that was there before.
    let before = ProcessId {
        tgid: 8,
        start_time_ns: 12345,
    };
    assert!(below(&fake, [before].into()).is_empty());
    assert_eq!(under(&[8]), [7]);
    let postgres = fake.find(7).unwrap();
    assert!(postgres.forks_per_connection);
    assert_eq!(fake.describe(9, 1).unwrap().pid, first.pid);
    assert_eq!(fake.describe(9, 2), None);

    let databases = fake.databases().unwrap();
    assert_eq!(databases.len(), 1);
    assert_eq!(databases[0].ports, [5432]);
    assert_eq!(databases[0].unit, "db.service");
    assert_eq!(databases[0].target, Some(v1::Target::port(5432)));

    fake.exit(7);
    postgres.exited.await;
    assert!(matches!(fake.find(7), Err(FindError::NotFound(7))));
}
