#![allow(clippy::unwrap_used)]
use super::*;
use crate::tools::import::row::Events;
use shared::name::literal;
use shared::{Device, Kind};

fn csv_row(header: &str, row: &str) -> Result<Events, String> {
    let columns = Columns::read(header.as_bytes(), b',', &ColumnNames::default())?;
    columns.fields(row.as_bytes(), &mut csv::StringRecord::new())?.events(7)
}

fn json_row(row: &str) -> Result<Events, String> {
    let names = ColumnNames::default();
    JsonRow::read(row.as_bytes(), &names)?.fields(&names).events(7)
}

fn kinds(events: &Events) -> Vec<Kind> {
    std::iter::once(&events.0).chain(&events.1).map(|event| event.kind).collect()
}

#[test]
fn columns_in_any_order_with_all_that_may_be_said() {
    let header = "\u{feff}Device, country ,ip,user_id,placement,publisher,event,timestamp,ad_id,x";
    let row = "phone,de,192.0.2.7,\"u, 1\",2,news,viewable,1574553617.004,ad-1,?";
    let Events(event, None) = csv_row(header, row).unwrap() else { panic!() };
    assert_eq!((event.row, event.kind), (7, Kind::Viewable));
    assert_eq!(event.at, shared::Timestamp(1_574_553_617_004));
    assert_eq!(event.ad.as_str(), "ad-1");
    assert_eq!(event.publisher, Some(literal("news")));
    assert_eq!(event.placement, Some(literal("2")));
    assert_eq!(
        (event.country.to_string(), event.device),
        ("DE".into(), Some(shared::Device::Phone))
    );
    assert_eq!((event.user.as_deref(), event.ip), (Some("u, 1"), "192.0.2.7".parse().ok()));

    let json = r#"{"ad_id":"ad-1","timestamp":1574553617.004,"event":"viewable","user_id":"u, 1",
        "ip":"192.0.2.7","country":"de","publisher":"news","placement":2,"device":"phone","x":[]}"#;
    assert_eq!(json_row(json).unwrap(), Events(event, None));
}

/// Through a floating-point number the first two would be one ad, and so would the others.
#[test]
fn names_that_json_has_as_numbers_stay_as_they_are_written() {
    for ad in ["120210000000000000001", "120210000000000000002", "12.50", "12.5", "1e3", "-0"] {
        let row = format!(r#"{{"ad_id":{ad},"timestamp":1574553617,"publisher":{ad}}}"#);
        let Events(event, None) = json_row(&row).unwrap() else { panic!() };
        assert_eq!(event.ad.as_str(), ad);
        assert_eq!(event.publisher.unwrap().as_str(), ad);
    }
}

#[test]
fn around_a_name_only_spaces_and_tabs_are_padding() {
    let row = |ad: &str| json_row(&format!(r#"{{"ad_id":"{ad}","timestamp":1574553617}}"#));
    for ad in ["tr", " tr", "tr  ", "\\ttr"] {
        let Events(event, None) = row(ad).unwrap() else { panic!() };
        assert_eq!(event.ad.as_str(), "tr");
    }
    for ad in ["tr\\n", "tr\\u2028", "\u{3000}tr", "tr\\u0085", "\u{a0}tr"] {
        let why = row(ad).unwrap_err();
        assert!(why.contains("a name "), "{ad}: {why}");
    }
}

#[test]
fn what_a_row_says_happened() {
    use Kind::{Click, Impression, Served};
    let cases = [
        ("ad_id,timestamp", "a,1700000001", vec![Click]),
        ("ad_id,click_timestamp", "a,1700000001", vec![Click]),
        ("ad_id,timestamp,click", "a,1700000001,0", vec![Impression]),
        ("ad_id,timestamp,click", "a,1700000001,1", vec![Impression, Click]),
        ("ad_id,timestamp,event", "a,1700000001,served", vec![Served]),
        ("ad_id,timestamp,event,click", "a,1700000001,served,", vec![Served]),
        ("ad_id,timestamp,event,click", "a,1700000001,,1", vec![Impression, Click]),
        ("ad_id,timestamp,click_timestamp", "a,,1700000001", vec![Click]),
        ("ad_id,timestamp,click_timestamp", "a,1700000001,", vec![Impression]),
        ("ad_id,timestamp,click_timestamp", "a,1700000001,1700000002", vec![Impression, Click]),
        ("ad_id,timestamp,clicked", "a,1700000001,FALSE", vec![Impression]),
        ("ad_id,timestamp,is_click", "a,1700000001,Yes", vec![Impression, Click]),
        ("ad_id,timestamp,Event_Type", "a,1700000001,Impression", vec![Impression]),
    ];
    for (header, row, expected) in cases {
        let events = csv_row(header, row).unwrap();
        assert_eq!(kinds(&events), expected, "{header} {row}");
        assert_eq!(events.count(), expected.len() as u64);
    }
    for (row, expected) in [
        (r#"{"ad_id":1,"timestamp":1700000001}"#, vec![Click]),
        (r#"{"ad_id":1,"timestamp":1700000001,"click":true}"#, vec![Impression, Click]),
        (r#"{"ad_id":1,"timestamp":1700000001,"clicked":"no"}"#, vec![Impression]),
        (r#"{"ad_id":1,"timestamp":1700000001,"event_name":"Served"}"#, vec![Served]),
        (r#"{"ad_id":1,"timestamp":1700000001,"click":0,"event":null}"#, vec![Impression]),
    ] {
        assert_eq!(kinds(&json_row(row).unwrap()), expected, "{row}");
    }
}

#[test]
fn a_bad_row_says_why() {
    let header = "ad_id,timestamp,click,event,ip,device";
    for (row, word) in [
        ("a\u{200b}b,1700000001,0,,,", "ad_id: a name has only characters that can be seen"),
        (",1700000001,0,,,", "ad_id: a name has at least one"),
        ("a,,0,,,", "timestamp: \"\""),
        ("a,yesterday,0,,,", "timestamp"),
        ("a,1574553617004000,0,,,", "9999"),
        ("a,1700000001,,,,", "click: 0 or 1"),
        ("a,1700000001,2,,,", "click: 0 or 1, and not \"2\""),
        ("a,1700000001,1,click,,", "both event and click"),
        ("a,1700000001,,conversion,,", "event: \"conversion\""),
        ("a,14102100,0,,,", "1970-06-13"),
        ("a,44197.00001,0,,,", "before there were ads"),
        ("a,1970-01-01 00:00:00,0,,,", "before there were ads"),
        ("a,1969-12-31T23:59:59Z,0,,,", "out of range"),
        ("a,9999-12-31T23:59:59Z,0,,,", "out of range"),
        ("a,2021-01-01 00:00:01[Mars/Olympus],0,,,", "Mars/Olympus"),
        ("a,1700000001,0,,", "5 columns where the header has 6"),
        ("a,1700000001,0,,,,", "7 columns where the header has 6"),
    ] {
        let reason = csv_row(header, row).unwrap_err();
        assert!(reason.contains(word), "{row}: {reason}");
    }
    let long = format!("a,1700000001,{}", "u".repeat(257));
    assert!(csv_row("ad_id,timestamp,user_id", &long).unwrap_err().contains("user_id"));
    let columns = Columns::read(b"ad_id,timestamp", b',', &ColumnNames::default()).unwrap();
    let fields = columns.fields(b"a\xff,1700000001", &mut csv::StringRecord::new()).map(drop);
    assert!(fields.unwrap_err().starts_with("not UTF-8 at byte 1 (of a log in Latin-1: `iconv"));
    for (row, word) in [
        ("[1]", "not a JSON object"),
        (r#"{"ad_id":"a","timestamp":1700000001"#, "not a JSON object"),
        (r#"{"ad_id":{},"timestamp":1700000001}"#, "a list or an object"),
        (r#"{"ad_id":"a"}"#, "timestamp"),
        (r#"{"ad_id":"a","timestamp":1700000001,"click_timestamp":2}"#, "before there were ads"),
    ] {
        let reason = json_row(row).unwrap_err();
        assert!(reason.contains(word), "{row}: {reason}");
    }
}

#[test]
fn a_header_without_what_is_needed_lists_what_was_found() {
    for (header, word) in [
        ("id,timestamp,Colour", "a column ad_id, and has: id, timestamp, Colour"),
        ("ad_id,time", "timestamp or click_timestamp, and has: ad_id, time"),
        ("a", "columns ad_id and timestamp (or click_timestamp), and has: a"),
        ("ad_id,timestamp,AD_ID", "ad_id twice"),
    ] {
        let what = Columns::read(header.as_bytes(), b',', &ColumnNames::default()).unwrap_err();
        assert!(what.contains(word), "{what}");
    }
    let what =
        JsonRow::check_names(br#"{"id":1,"timestamp":2}"#, &ColumnNames::default()).unwrap_err();
    assert!(what.contains("ad_id, and has: id, timestamp"), "{what}");
    let found =
        JsonRow::check_names(br#"{"ad_id":1,"timestamp":2,"colour":3}"#, &ColumnNames::default())
            .unwrap();
    assert_eq!(found.unknown, ["colour"]);
    assert!(!found.says_what);
}

#[test]
fn a_log_s_own_names_are_mapped_and_what_it_does_not_say_has_a_default() {
    let pair = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
    let names = |mapped: &[(&str, &str)], defaults: &[(&str, &str)]| {
        let pairs = |of: &[(&str, &str)]| of.iter().copied().map(pair).collect::<Vec<_>>();
        ColumnNames::new(&pairs(mapped), &pairs(defaults))
    };
    let ours = [("ad_id", "Creative"), ("timestamp", "hour"), ("click", "ad_id")];
    let names_of = names(&ours, &[("publisher", "news"), ("device", "tablet")]).unwrap();
    let read = |header: &str, row: &str| {
        let columns = Columns::read(header.as_bytes(), b',', &names_of)?;
        columns.fields(row.as_bytes(), &mut csv::StringRecord::new())?.events(7)
    };
    let json = r#"{"CREATIVE":"a","hour":1700000001,"ad_id":1,"device":"","timestamp":"x"}"#;
    let json = JsonRow::read(json.as_bytes(), &names_of).unwrap();
    for events in [
        read("creative,hour,ad_id,device,timestamp", "a,1700000001,1,,x").unwrap(),
        json.fields(&names_of).events(7).unwrap(),
    ] {
        assert_eq!(kinds(&events), [Kind::Impression, Kind::Click]);
        let event = events.0;
        assert_eq!(event.ad.as_str(), "a");
        assert_eq!(event.device, Some(Device::Tablet));
        assert_eq!(event.publisher, Some(literal("news")));
    }
    let event = read("creative,hour,ad_id,device,publisher", "a,1700000001,0,tv,x").unwrap().0;
    assert_eq!((event.device, event.publisher), (Some(Device::Tv), Some(literal("x"))));
    let missing = read("ad_id,hour", "a,1").unwrap_err();
    assert!(
        missing.contains("a column ad_id, and has: ad_id, hour; `--map ad_id=NAME"),
        "{missing}"
    );
    for (mapped, defaults, word) in [
        (&[("colour", "x")][..], &[][..], "colour: no column is called so; there are ad_id"),
        (&[("ad_id", "x"), ("ad_id", "y")], &[], "mapped once"),
        (&[("ad_id", "x"), ("publisher", "X")], &[], "mapped once"),
        (&[], &[("timestamp", "1")], "a time of its own"),
        (&[], &[("ip", "::1"), ("ip", "::2")], "ip: it is there twice"),
        (&[], &[("colour", "red")], "colour: no column"),
    ] {
        let error = names(mapped, defaults).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    // A log of one ad needs no column for it.
    let one = names(&[], &[("ad_id", "a")]).unwrap();
    let columns = Columns::read(b"timestamp", b',', &one).unwrap();
    let mut buffer = csv::StringRecord::new();
    let fields = columns.fields(b"1700000001", &mut buffer).unwrap();
    assert_eq!(fields.events(0).unwrap().0.ad.as_str(), "a");
}

/// What logs write, and the country that it names.
const COUNTRIES: &str = "
USA = US
United States = US
united states of america = US
DEU = DE
276 = DE
Germany = DE
UK = GB
uk = GB
United Kingdom = GB
South Korea = KR
Russia = RU
Bosnia & Herzegovina = BA
XK = XK
Viet Nam = VN
Czech Republic = CZ
Hong Kong = HK
Türkiye = TR
Turkey = TR
UAE = AE
Czechia = CZ
Ivory Coast = CI
Côte d'Ivoire = CI
Macedonia = MK
North Macedonia = MK
Swaziland = SZ
Eswatini = SZ
Cape Verde = CV
Holland = NL
The Netherlands = NL
Great Britain = GB
Palestine = PS
Syria = SY
Laos = LA
Bolivia = BO
Venezuela = VE
Tanzania = TZ
Moldova = MD
Iran = IR
Brunei = BN
East Timor = TL
DR Congo = CD
Congo - Kinshasa = CD
Macau = MO
Macao SAR China = MO
Hong Kong SAR China = HK
Vatican City = VA
Myanmar (Burma) = MM
Congo (Kinshasa) = CD
Congo, Democratic Republic of the = CD
Congo (DRC) = CD
Congo = CG
Palestine, State of = PS
Taiwan, Province of China = TW
Iran (Islamic Republic of) = IR
Taiwan = TW
U.S.A. = US
U.S. = US
Bahamas, The = BS
Kosovo = XK
St. Lucia = LC
Trinidad and Tobago = TT
Saint Kitts & Nevis = KN
Korea (Republic of) = KR
Cocos (Keeling) Islands = CC
Republic of the Congo = CG
Hong Kong SAR = HK
St. Kitts & Nevis = KN
Palestinian Territories = PS
U.K. = GB
The United States = US
Virgin Islands, United States = VI
Micronesia = FM
Réunion = RE
XX = ZZ
T1 = ZZ
zz = ZZ
Unknown = ZZ
(not set) = ZZ
";

#[test]
fn countries_are_read_by_code_and_by_name() {
    let of_nothing = [("", "ZZ"), (" - ", "ZZ")];
    let cases = COUNTRIES.trim().lines().map(|line| line.split_once(" = ").unwrap());
    let mut wrong = Vec::new();
    for (said, wanted) in cases.chain(of_nothing) {
        let row = format!("a,1700000001,\"{said}\"");
        let columns =
            Columns::read(b"ad_id,timestamp,country", b',', &ColumnNames::default()).unwrap();
        let mut buffer = csv::StringRecord::new();
        let fields = columns.fields(row.as_bytes(), &mut buffer).unwrap();
        let Events(event, None) = fields.events(0).unwrap() else { panic!("{row}") };
        let country = event.country.to_string();
        if country != wanted || fields.unread_country().is_some() {
            wrong.push(format!("{said} is {country}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_place_in_a_country_is_no_country() {
    for said in [
        "Georgia, USA",
        "Georgia (US)",
        "Lebanon, Pennsylvania",
        "Mexico, New",
        "China (Taiwan)",
        "China, Hong Kong",
        "France (Réunion)",
        "Denmark (Greenland)",
        "Vietnam, South",
        "Germany, East",
        "US-CA",
        "AR-G",
    ] {
        let columns =
            Columns::read(b"ad_id,timestamp,country", b',', &ColumnNames::default()).unwrap();
        let mut buffer = csv::StringRecord::new();
        let row = format!("a,1700000001,\"{said}\"");
        let fields = columns.fields(row.as_bytes(), &mut buffer).unwrap();
        assert_eq!(fields.unread_country(), Some(said));
    }
}

#[test]
fn devices_are_read_by_the_words_of_logs() {
    let cases = [
        ("mobile", Some(Device::Phone)),
        ("Smartphone", Some(Device::Phone)),
        ("DESKTOP", Some(Device::Desktop)),
        ("Connected TV", Some(Device::Tv)),
        ("tablet", Some(Device::Tablet)),
        ("other", Some(Device::Unknown)),
        ("watch", None),
        ("2", None),
    ];
    for (said, wanted) in cases {
        let row = format!("a,1700000001,{said}");
        let columns =
            Columns::read(b"ad_id,timestamp,device", b',', &ColumnNames::default()).unwrap();
        let mut buffer = csv::StringRecord::new();
        let fields = columns.fields(row.as_bytes(), &mut buffer).unwrap();
        let Events(event, None) = fields.events(0).unwrap() else { panic!("{row}") };
        assert_eq!(event.device, wanted, "{said}");
        assert_eq!(fields.unread_device(), wanted.is_none().then_some(said));
    }
}

#[test]
fn an_address_or_a_country_that_says_nothing_costs_no_event() {
    let header = "ad_id,timestamp,ip,country";
    let cases = [
        ("192.0.2.7", Some("192.0.2.7"), "DE", None),
        ("192.0.2.7:4711", Some("192.0.2.7"), "de", None),
        ("2001:db8::1", Some("2001:db8::1"), "", None),
        ("[2001:db8::1]", Some("2001:db8::1"), "-", None),
        ("[2001:db8::1]:80", Some("2001:db8::1"), "gb", None),
        ("-", None, "Germania", Some("Germania")),
        ("207.xxx.xx.22", None, "D", Some("D")),
        ("0.0.0.1", Some("0.0.0.1"), "QQ", Some("QQ")),
        ("\"203.0.113.7, 10.0.0.6\"", None, "?", Some("?")),
    ];
    for (ip, address, country, unread) in cases {
        let row = format!("a,1700000001,{ip},{country}");
        let columns = Columns::read(header.as_bytes(), b',', &ColumnNames::default()).unwrap();
        let mut buffer = csv::StringRecord::new();
        let fields = columns.fields(row.as_bytes(), &mut buffer).unwrap();
        let Events(event, None) = fields.events(0).unwrap() else { panic!("{row}") };
        assert_eq!(event.ip, address.map(|text| text.parse().unwrap()), "{row}");
        let is_unread = address.is_none() && ip != "-";
        assert_eq!(
            (fields.unread_ip().is_some(), fields.unread_country()),
            (is_unread, unread),
            "{row}"
        );
    }
}
