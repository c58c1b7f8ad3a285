#![allow(clippy::unwrap_used)]
use super::*;
use crate::cli::UpArgs;

fn load(
    file: Option<&str>,
    environment: &[(&str, &str)],
    args: UpArgs,
) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let config = file.map(|text| {
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Settings::load(&UpArgs { config, ..args }.given(), environment)
        .map_err(|failure| failure.message)
}

fn none() -> UpArgs {
    UpArgs {
        config: None,
        data: None,
        log: None,
        edge_listen: None,
        api_listen: None,
        clock_is_right: None,
        demo: false,
        sdk: None,
    }
}

/// The example with every setting switched on: each line `#name = value` without its mark.
fn uncommented() -> String {
    let setting = |line: &&str| line.strip_prefix('#').is_some_and(|l| !l.starts_with([' ', '#']));
    let lines = EXAMPLE.lines();
    lines.map(|line| if setting(&line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_says_the_defaults_and_all_of_them() {
    assert_eq!(load(Some(EXAMPLE), &[], none()).unwrap(), Settings::default());
    let all = load(Some(&uncommented()), &[], none()).unwrap();
    assert_eq!(all, Settings { partitions: Some(16), ..Settings::default() });

    let said: toml::Table = uncommented().parse().unwrap();
    let known = toml::Table::try_from(&all).unwrap();
    for (group, settings) in known.iter().filter_map(|(k, v)| Some((k, v.as_table()?))) {
        for name in settings.keys() {
            assert!(said[group].get(name).is_some(), "{group}.{name} is not in the example");
        }
    }
}

#[test]
fn flags_win_over_the_environment_over_the_file() {
    let file =
        "data = 'a'\n[edge]\nlisten = '127.0.0.1:1'\nname = 'f'\n[api]\nlisten = '127.0.0.1:2'";
    let environment = [
        ("COUNTERSIGN_EDGE__LISTEN", "127.0.0.1:3"),
        ("COUNTERSIGN_API__LISTEN", "127.0.0.1:4"),
        ("COUNTERSIGN_EDGE__TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"),
        ("COUNTERSIGN_EDGE__BEACONS", "queued"),
        ("COUNTERSIGN_ADMIN_KEY", "no setting"),
        ("OTHER", "ignored"),
    ];
    let flags = UpArgs { api_listen: Some("[::1]:5".parse().unwrap()), ..none() };
    let settings = load(Some(file), &environment, flags).unwrap();
    assert_eq!(settings.data, PathBuf::from("a"));
    assert_eq!(settings.edge.name, Id::literal("f"));
    assert_eq!(settings.edge.listen, "127.0.0.1:3".parse().unwrap());
    assert_eq!(settings.api.listen, "[::1]:5".parse().unwrap());
    assert_eq!(settings.edge.trusted_proxies, ["10.0.0.0/8"]);
    assert_eq!(settings.edge.beacons, "queued");
}

#[test]
fn what_is_not_known_is_refused_with_name_and_place() {
    type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 27] = [
        (Some("[edge]\nshards = 2"), &[], &["`shards`", "a Worker alone has it"]),
        (Some("[outbox]\nbeacons_durable = true"), &[], &["it is edge.beacons"]),
        (Some("[edge.limits]\nclicks_burst = 'a'"), &[], &["(from 0 to 4294967295)"]),
        (
            Some("[edge]\nclicks = 'fast'\n[edge.privacy]\nvendor = 70000"),
            &[],
            &["edge.clicks: `durable` or `queued`, and not fast", "edge.privacy.vendor: from 0"],
        ),
        (Some("[eventlog]\nurl = 'nats://a:b@c'"), &[], &["eventlog.url", "password_file"]),
        (Some("[eventlog]\nuser = 'a'"), &[], &["password_file", "both"]),
        (Some("[edge]\nlisen = 1"), &[], &["c.toml", "edge", "`lisen`", "`listen`"]),
        (Some("colour = 1"), &[], &["c.toml", "`colour`"]),
        (Some("[egde]"), &[], &["c.toml", "`egde`"]),
        (Some("[edge\n"), &[], &["c.toml", "TOML"]),
        (Some("[edge]\nlisten = 'x'"), &[], &["c.toml", "edge.listen", "socket address"]),
        (None, &[("COUNTERSIGN_EDGE__LISEN", "1")], &["COUNTERSIGN_EDGE__LISEN", "`listen`"]),
        (None, &[("COUNTERSIGN_PORT", "1")], &["COUNTERSIGN_PORT"]),
        (
            None,
            &[("COUNTERSIGN_OUTBOX__DISK_BYTES_MAX", "-1")],
            &["COUNTERSIGN_OUTBOX__DISK_BYTES_MAX"],
        ),
        (None, &[("COUNTERSIGN_PARTITIONS", "0")], &["partitions", "1 to 1024"]),
        (
            None,
            &[("COUNTERSIGN_COLLECTOR__VERIFY_THREADS", "100000")],
            &["collector.verify_threads: from 0 to 256, and not 100000"],
        ),
        (Some("[edge]\ncountry_header = 'bad header'"), &[], &["edge.country_header"]),
        (Some("[log]\nfilter = 'loud'"), &[], &["log.filter", "\"loud\" is no level", "info"]),
        (Some("partitions = 70000"), &[], &["partitions", "from 1 to 1024"]),
        (Some("[collector]\nflush_ms = -1"), &[], &["collector.flush_ms", "from 0 to 60000"]),
        (Some("[edge]\nlink_days = 0"), &[], &["edge.link_days: from 1 to 731, and not 0"]),
        (Some("[collector]\nclock_is_right = 'noon'"), &[], &["clock_is_right", "RFC 3339"]),
        (Some("[edge.verdicts]\nclicks_window_s = 'a'"), &[], &["clicks_window_s", "from 1 to"]),
        (Some("[aggregator]\ncheckpoint_ms = 0"), &[], &["aggregator.checkpoint_ms: from 10"]),
        (Some("[eventlog]\nprefix = 'a.b'"), &[], &["eventlog.prefix: at most 64", "not \"a.b\""]),
        (Some("[outbox]\ndisk_bytes_max = 0"), &[], &["outbox.disk_bytes_max: at least 1048576"]),
        (
            Some("[edge.verdicts]\nnetworks = '/nowhere.mmdb'"),
            &[],
            &["edge.verdicts.networks", "/nowhere.mmdb"],
        ),
    ];
    for (file, environment, words) in cases {
        let message = load(file, environment, none()).unwrap_err();
        for word in words {
            assert!(message.contains(word), "{word} is not in: {message}");
        }
    }
}

#[test]
fn a_setting_of_another_role_is_refused_wherever_it_is_set() {
    let given = |config| Given {
        command: "collector",
        own: &["log", "collector", "eventlog", "api"],
        config,
        flags: Vec::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    let file = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Settings::load(&given(Some(path.clone())), []).map_err(|failure| failure.message)
    };
    file("[collector]\nflush_ms = 7\n[eventlog]\nurl = 'nats://x'").unwrap();
    for (text, name) in [("[edge]\nname = 'a'", "edge"), ("partitions = 4", "partitions")] {
        let message = file(text).unwrap_err();
        for word in ["c.toml", name, "`countersign collector`", "collector, eventlog"] {
            assert!(message.contains(word), "{word} is not in: {message}");
        }
    }
    let variable = ("COUNTERSIGN_OUTBOX__DISK_BYTES_MAX".to_owned(), "9".to_owned());
    let message = Settings::load(&given(None), [variable]).unwrap_err().message;
    assert!(message.contains("the environment") && message.contains("outbox"), "{message}");
}

/// Settings of the edge as a file has them: group, name, and a value that cannot be used.
const WRONG: [(&str, &str, &str); 15] = [
    ("", "public_url", "'ftp://ads.example'"),
    ("", "link_days", "732"),
    ("", "beacons", "'fast'"),
    ("", "clicks", "'Durable'"),
    ("", "redirect_wait_ms", "0"),
    (".limits", "requests_per_s", "1000001"),
    (".limits", "requests_burst", "4294967296"),
    (".limits", "clicks_per_s", "1000001"),
    (".limits", "clicks_burst", "99999999999"),
    (".verdicts", "click_too_soon_ms", "60001"),
    (".verdicts", "clicks_max", "4294967296"),
    (".verdicts", "clicks_window_s", "86401"),
    (".privacy", "address", "'whole'"),
    (".privacy", "purposes", "[1, 25]"),
    (".privacy", "vendor", "65536"),
];

/// The settings that a Worker reads from its bindings.
fn bound(bindings: &[(String, String)]) -> edge::worker::settings::Settings {
    let base = [("EDGE_NAME", "w"), ("GATEWAY_URL", "https://c.example")];
    edge::worker::settings::read(&|name| {
        let given = bindings.iter().find(|(known, _)| known == name);
        let base = base.iter().find(|(known, _)| *known == name);
        given.map(|(_, text)| text.clone()).or_else(|| Some(base?.1.to_owned()))
    })
}

#[test]
fn a_worker_refuses_the_same_values_with_the_same_words() {
    for (group, name, value) in WRONG {
        let file = format!("[edge{group}]\n{name} = {value}");
        let said = load(Some(&file), &[], none()).unwrap_err();
        let text = value.trim_matches(['\'', '[', ']']).replace(' ', "");
        let binding = (name.to_uppercase(), text);
        let trouble = bound(std::slice::from_ref(&binding)).trouble;
        let [alike] = &*trouble else { panic!("{binding:?}: {trouble:?}") };
        let why = alike.strip_prefix(&format!("{}: ", binding.0)).expect("its name comes first");
        assert_eq!(said, format!("edge{group}.{name}: {why}"));
    }
    let all = edge::settings::NUMBERS.map(|number| number.name).into_iter();
    for name in all.chain(edge::settings::TEXTS) {
        let is_tried = WRONG.iter().any(|(_, tried, _)| tried.to_uppercase() == name);
        assert!(is_tried, "{name} is not tried");
    }
}

#[test]
fn a_worker_takes_the_same_values_for_the_same_and_has_the_same_defaults() {
    assert_eq!(Settings::default().edge.told().unwrap(), bound(&[]).told);
    let file = "[edge]
        public_url = 'https://ads.example/'\nlink_days = 7\nbeacons = 'queued'\nclicks = 'queued'
        redirect_wait_ms = 20\n[edge.limits]\nrequests_per_s = 1\nrequests_burst = 2
        clicks_per_s = 0\nclicks_burst = 4\n[edge.verdicts]\nclick_too_soon_ms = 5\nclicks_max = 6
        clicks_window_s = 8\n[edge.privacy]\naddress = 'hashed'\npurposes = [2, 24]\nvendor = 755";
    let settings = load(Some(file), &[], none()).unwrap();
    let lines = file.lines().filter_map(|line| line.split_once(" = "));
    let plain = |text: &str| text.replace(['\'', '[', ']', ' '], "");
    let bindings: Vec<_> =
        lines.map(|(name, value)| (plain(name).to_uppercase(), plain(value))).collect();
    let told = bound(&bindings);
    assert_eq!((settings.edge.told().unwrap(), Vec::<String>::new()), (told.told, told.trouble));
    assert_eq!(bindings.len(), WRONG.len());
}

/// The native edge and the Worker each refuse a setting that only the other one has, and say so.
#[test]
fn a_setting_of_the_other_shell_is_refused_and_says_so() {
    let known = toml::Table::try_from(Edge::default()).unwrap();
    let groups = known.values().filter_map(toml::Value::as_table).flat_map(toml::Table::keys);
    let single = known.iter().filter(|(_, value)| !value.is_table()).map(|(name, _)| name);
    let own = toml::Table::try_from(Outbox::default()).unwrap();
    for name in groups.chain(single).chain(own.keys()).map(|name| name.to_uppercase()) {
        // Both kinds of edge have it under this name: one names a file, the other has its text.
        let is_shared = WRONG.iter().any(|(_, shared, _)| shared.to_uppercase() == name);
        match edge::worker::settings::refused(&name) {
            None => assert!(is_shared || name == "CATALOGUE", "{name}"),
            Some(why) => assert!(why.contains("the native edge alone has it"), "{why}"),
        }
    }
    for name in edge::worker::settings::OWN.iter().filter(|name| **name != "CATALOGUE") {
        let file = format!("[edge]\n{} = 'x'", name.to_lowercase());
        let why = load(Some(&file), &[], none()).unwrap_err();
        assert!(why.contains("a Worker alone has it"), "{why}");
    }
}
