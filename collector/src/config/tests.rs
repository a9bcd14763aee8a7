//! Every setting from every place, and every way to get it wrong.

use std::{fs, path::Path};

use netio::v1::target::Selector;

use super::*;

mod access;

/// The flags as the program has them.
#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    given: Given,
}

/// Loads with these flags, variables and file.
fn load(flags: &[&str], env: &[(&str, &str)], file: &str) -> Result<Settings, String> {
    use clap::Parser as _;
    let path = tempfile::NamedTempFile::new().unwrap();
    fs::write(&path, file).unwrap();
    let words = ["netio-collector"].iter().chain(flags);
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let config = Some(path.path().to_owned());
    let env = |name: &str| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.into())
    };
    Settings::load(cli.given, config, env).map_err(|error| error.to_string())
}

#[test]
fn defaults() {
    let settings = load(&[], &[], "").unwrap();
    let socket = "/run/netio/collector.sock".into();
    assert_eq!(settings.listen, [Address::Unix(socket)]);
    assert!(settings.listens_by_default);
    assert_eq!(settings.options.interval, Duration::from_secs(1));
    assert_eq!(settings.options.limits, Limits::default());
    assert_eq!(settings.hooks, HookChoice::Auto);
    assert!(!settings.options.keep_at_stop);
    let kept = settings.keep.unwrap();
    assert_eq!(kept.pin_path, Path::new("/sys/fs/bpf/netio"));
    assert_eq!(kept.state_dir, Path::new("/run/netio/state"));
    assert_eq!(settings.log.to_string(), "info");
    assert_eq!(settings.log_format, LogFormat::Pretty);
}

/// Each setting, three different values for it, and how it reads.
type Case = (&'static str, [&'static str; 3], fn(&Settings) -> String);
const CASES: [Case; 21] = [
    (
        "listen",
        [
            "tcp://127.0.0.1:1",
            "tcp://127.0.0.1:2",
            "tcp://127.0.0.1:3",
        ],
        |it| match &it.listen[..] {
            [Address::Tcp(address)] => format!("tcp://{address}"),
            other => format!("{other:?}"),
        },
    ),
    ("socket_group", ["1", "2", "3"], |it| {
        it.socket_group.unwrap().to_string()
    }),
    ("interval", ["2s", "3s", "4s"], |it| {
        humantime::format_duration(it.options.interval).to_string()
    }),
    ("hooks", ["kprobe", "fentry", "tracepoint"], |it| {
        it.hooks.to_string()
    }),
    ("detach_when_idle", ["1s", "NEVER", "1day"], |it| {
        let after = it.options.detach_when_idle;
        let words = after.map(|after| humantime::format_duration(after).to_string());
        words.unwrap_or_else(|| "NEVER".to_owned())
    }),
    ("max_watches", ["1", "16384", "3"], |it| {
        it.options.limits.max_watches.to_string()
    }),
    ("max_watches_per_owner", ["1", "16384", "3"], |it| {
        it.options.limits.max_watches_per_owner.to_string()
    }),
    ("max_processes", ["1", "65536", "3"], |it| {
        it.options.limits.max_processes.to_string()
    }),
    ("max_processes_per_watch", ["1", "65536", "3"], |it| {
        it.options.limits.max_processes_per_watch.to_string()
    }),
    ("max_subscribers", ["1", "262144", "3"], |it| {
        it.options.limits.max_subscribers.to_string()
    }),
    ("max_connections", ["1", "65536", "3"], |it| {
        it.options.limits.max_connections.to_string()
    }),
    ("lease", ["1s", "1day", "3s"], |it| {
        humantime::format_duration(it.options.limits.default_lease_ttl).to_string()
    }),
    ("history", ["0s", "1day", "3s"], |it| {
        humantime::format_duration(it.options.limits.max_history).to_string()
    }),
    ("history_bytes", ["0", "4294967295", "3"], |it| {
        it.options.limits.max_history_bytes.to_string()
    }),
    ("stall_timeout", ["1s", "5s", "1h"], |it| {
        humantime::format_duration(it.options.limits.stall_timeout).to_string()
    }),
    ("pin_path", ["/a", "/b", "/c"], |it| {
        let kept = it.keep.as_ref().unwrap();
        kept.pin_path.display().to_string()
    }),
    ("state_dir", ["/a", "/b", "/c"], |it| {
        let kept = it.keep.as_ref().unwrap();
        kept.state_dir.display().to_string()
    }),
    ("no_pin", ["true", "false", "true"], |it| {
        it.keep.is_none().to_string()
    }),
    ("keep_at_stop", ["true", "false", "true"], |it| {
        it.options.keep_at_stop.to_string()
    }),
    ("log", ["debug", "warn", "error"], |it| it.log.to_string()),
    ("log_format", ["json", "pretty", "json"], |it| {
        format!("{:?}", it.log_format).to_lowercase()
    }),
];

#[test]
fn flags_beat_variables_beat_the_file() {
    for (key, [in_flag, in_variable, in_file], read) in CASES {
        let flag = Origin::Flags.name(key);
        let flags = [flag.as_str(), in_flag];
        let name = variable(key);
        let env = [(name.as_str(), in_variable)];
        let file = match key {
            "listen" => format!("listen = [{in_file:?}]"),
            "socket_group" => format!("{key} = {in_file:?}"),
            _ if in_file.parse::<u32>().is_ok() || in_file.parse::<bool>().is_ok() => {
                format!("{key} = {in_file}")
            }
            _ => format!("{key} = {in_file:?}"),
        };
        assert_eq!(read(&load(&flags, &env, &file).unwrap()), in_flag);
        assert_eq!(read(&load(&[], &env, &file).unwrap()), in_variable);
        assert_eq!(read(&load(&[], &[], &file).unwrap()), in_file);
        let empty = [(name.as_str(), "")];
        assert_eq!(read(&load(&[], &empty, &file).unwrap()), in_file);
    }
}

#[test]
fn the_time_to_detach_after_may_be_left_out() {
    let settings = load(&["--detach-when-idle", "--log", "warn"], &[], "").unwrap();
    let after = settings.options.detach_when_idle;
    assert_eq!(after, Some(Duration::from_secs(30)));
    assert_eq!(load(&[], &[], "").unwrap().options.detach_when_idle, None);
    for wrong in ["0s", "999ms", "25h", "30", "always"] {
        let flag = format!("--detach-when-idle={wrong}");
        let error = load(&[&flag], &[], "").unwrap_err();
        assert!(error.contains("--detach-when-idle"), "{error}");
        assert!(error.contains("or never"), "{error}");
    }
}

#[test]
fn a_folder_is_an_absolute_path_and_a_wish_is_true_or_false() {
    for key in ["pin_path", "state_dir"] {
        let error = load(&[], &[(&variable(key), "run/netio")], "").unwrap_err();
        assert!(error.contains("is no absolute path"), "{error}");
    }
    assert!(load(&["--no-pin"], &[], "").unwrap().keep.is_none());
    assert!(
        load(&["--keep-at-stop"], &[], "")
            .unwrap()
            .options
            .keep_at_stop
    );
    let error = load(&[], &[("NETIO_NO_PIN", "perhaps")], "").unwrap_err();
    assert!(error.contains("is neither true nor false"), "{error}");
}

#[test]
fn several_addresses_can_be_given_everywhere() {
    let both = [
        Address::Unix("/a".into()),
        Address::Tcp("[::1]:5".parse().unwrap()),
    ];
    let flags = ["--listen", "unix:///a", "--listen=tcp://[::1]:5"];
    assert_eq!(load(&flags, &[], "").unwrap().listen, both);
    assert!(!load(&flags, &[], "").unwrap().listens_by_default);
    let env = [("NETIO_LISTEN", "unix:///a, tcp://[::1]:5,")];
    assert_eq!(load(&[], &env, "").unwrap().listen, both);
    let file = r#"listen = ["unix:///a", "tcp://[::1]:5"]"#;
    assert_eq!(load(&[], &[], file).unwrap().listen, both);
    let one = load(&[], &[], r#"listen = "unix:///a""#).unwrap();
    assert_eq!(one.listen, both[..1]);
}

#[test]
fn words_may_be_in_capitals_everywhere() {
    let flags = ["--hooks=KPROBE", "--log-format=JSON"];
    let env = [("NETIO_HOOKS", "Kprobe"), ("NETIO_LOG_FORMAT", "Json")];
    let file = "hooks = \"KProbe\"\nlog_format = \"JSON\"";
    for settings in [
        load(&flags, &[], ""),
        load(&[], &env, ""),
        load(&[], &[], file),
    ] {
        let settings = settings.unwrap();
        assert_eq!(settings.hooks, HookChoice::Kprobe);
        assert_eq!(settings.log_format, LogFormat::Json);
    }
}

#[test]
fn privileges_are_given_up_unless_it_is_told_otherwise() {
    let told = |settings: Settings| (settings.keep_privileges, settings.no_seccomp);
    assert_eq!(told(load(&[], &[], "").unwrap()), (false, false));
    assert_eq!(
        told(load(&["--keep-privileges"], &[], "").unwrap()),
        (true, false)
    );
    assert_eq!(
        told(load(&["--no-seccomp"], &[], "").unwrap()),
        (false, true)
    );
    let env = [("NETIO_KEEP_PRIVILEGES", "Yes"), ("NETIO_NO_SECCOMP", "0")];
    let file = "keep_privileges = false\nno_seccomp = true";
    assert_eq!(told(load(&[], &env, file).unwrap()), (true, false));
    assert_eq!(told(load(&[], &[], file).unwrap()), (false, true));
    let wrong = load(&[], &[("NETIO_NO_SECCOMP", "off?")], "").unwrap_err();
    assert!(wrong.contains("NETIO_NO_SECCOMP"), "{wrong}");
    assert!(wrong.contains("neither true nor false"), "{wrong}");
}

#[test]
fn variables_that_nobody_reads_are_named() {
    let known = CASES.iter().map(|(key, ..)| variable(key));
    let others = ["NETIO_CONFIG", "NETIO_ENDPOINT", "PATH", "netio_hooks"];
    let names = known.chain(others.map(str::to_owned));
    assert_eq!(
        unknown_variables(names.map(Into::into)),
        Vec::<String>::new()
    );
    let names = ["NETIO_MAX_WATCH", "NETIO_", "NETIO_HOOK"];
    assert_eq!(
        unknown_variables(names.into_iter().map(Into::into)),
        ["NETIO_", "NETIO_HOOK", "NETIO_MAX_WATCH"]
    );
}

/// Flags, variables, file, and what the error tells.
type Bad<'a> = (
    &'a [&'a str],
    &'a [(&'a str, &'a str)],
    &'a str,
    &'a [&'a str],
);

#[test]
fn errors_say_where_the_value_came_from() {
    let cases: &[Bad<'_>] = &[
        (
            &["--interval", "5ms"],
            &[],
            "",
            &["--interval", "100ms to 60s"],
        ),
        (&["--interval=1"], &[], "", &["--interval", "500ms"]),
        (
            &[],
            &[("NETIO_INTERVAL", "2h")],
            "",
            &["NETIO_INTERVAL", "\"2h\""],
        ),
        (&[], &[], "interval = \"x\"", &["interval in /", "\"x\""]),
        (&["--hooks", "uprobe"], &[], "", &["--hooks", "kprobe"]),
        (
            &[],
            &[("NETIO_HOOKS", "x")],
            "",
            &["NETIO_HOOKS", "auto, tracepoint"],
        ),
        (&[], &[], "hooks = \"x\"", &["line 1", "tracepoint"]),
        (&["--max-watches=0"], &[], "", &["--max-watches", "16384"]),
        (
            &[],
            &[("NETIO_MAX_WATCHES", "16385")],
            "",
            &["NETIO_MAX_WATCHES", "16384"],
        ),
        (
            &[],
            &[("NETIO_MAX_WATCHES", "many")],
            "",
            &["NETIO_MAX_WATCHES", "no number"],
        ),
        (
            &[],
            &[],
            "listen = 1",
            &["line 1", "an address in quotes, or a list"],
        ),
        (&[], &[], "max_watches = -1", &["line 1"]),
        (&[], &[], "\nintervall = \"1s\"", &["intervall", "line 2"]),
        (&["--lease", "25h"], &[], "", &["--lease", "1s to 86400s"]),
        (&["--history", "2days"], &[], "", &["--history", "86400s"]),
        (
            &[],
            &[("NETIO_MAX_PROCESSES", "65537")],
            "",
            &["NETIO_MAX_PROCESSES", "65536"],
        ),
        (
            &["--max-connections=0"],
            &[],
            "",
            &["--max-connections", "65536"],
        ),
        (
            &[],
            &[],
            "max_subscribers = 262145",
            &["max_subscribers in /", "262144"],
        ),
        (
            &[],
            &[],
            "[[watch]]\nname = \"a\"\nport = 1",
            &["watch in /", "exactly one of"],
        ),
        (&[], &[], "[[watch]]", &["watch in /", "exactly one of"]),
        (
            &[],
            &[],
            "[[watch]]\nport = 70000",
            &["watch in /", "70000"],
        ),
        (&[], &[], "[[watch]]\npid = 1", &["line 2", "pid"]),
        (&["--log", "a=b=c"], &[], "", &["--log", "no log filter"]),
        (
            &[],
            &[("NETIO_LOG_FORMAT", "xml")],
            "",
            &["NETIO_LOG_FORMAT", "pretty, json"],
        ),
        (
            &["--listen", "/run/x"],
            &[],
            "",
            &["--listen", "unix:///PATH"],
        ),
        (
            &["--listen", "unix://x/y"],
            &[],
            "",
            &["--listen", "absolute"],
        ),
        (
            &[],
            &[("NETIO_LISTEN", "tcp://127.0.0.1")],
            "",
            &["NETIO_LISTEN", "PORT"],
        ),
        (
            &["--listen=unix:///a", "--listen=unix:///a"],
            &[],
            "",
            &["given twice"],
        ),
    ];
    for (flags, env, file, expected) in cases {
        let error = load(flags, env, file).unwrap_err();
        for part in *expected {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

#[test]
fn the_file_may_hold_standing_watches() {
    let file = r#"
        [[watch]]
        name = "mariadbd"
        [[watch]]
        port = 5432
        follow_children = false
        [[watch]]
        unit = "redis.service"
    "#;
    let settings = load(&[], &[], file).unwrap();
    let unit = Selector::Unit("redis.service".to_owned());
    assert_eq!(
        settings.options.watches,
        [
            Target::name("mariadbd"),
            Target::port(5432).following_children(false),
            Target::new(unit),
        ]
    );
}

#[test]
fn a_missing_file_is_an_error() {
    let nowhere = Some(PathBuf::from("/nonexistent/netio.toml"));
    let error = Settings::load(Given::default(), nowhere, |_| None).unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/netio.toml"),
        "{error}"
    );
    let env = |name: &str| (name == "NETIO_CONFIG").then(|| "/nonexistent/b.toml".into());
    let error = Settings::load(Given::default(), None, env).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/b.toml"), "{error}");
}
