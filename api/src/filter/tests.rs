use std::net::IpAddr;

use serde_json::json;
use shared::Reason;
use shared::name::literal;

use super::*;

mod printed;

fn countries(codes: &[&str]) -> Filter {
    Filter::Is(Values::Country(codes.iter().map(|code| code.parse().unwrap()).collect()))
}

fn devices(devices: &[Device]) -> Filter {
    Filter::Is(Values::Device(devices.to_vec()))
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

fn networks(addresses: &[&str]) -> Filter {
    let network = |text: &&str| Network::from_address(text.parse::<IpAddr>().unwrap());
    Filter::Is(Values::Network(addresses.iter().map(network).collect()))
}

fn publishers(names: &[&'static str]) -> Filter {
    Filter::Is(Values::Publisher(names.iter().map(|name| literal(name)).collect()))
}

fn places(codes: &[&str]) -> Filter {
    Filter::Is(Values::Region(codes.iter().map(|code| code.parse().unwrap()).collect()))
}

/// What is said about a text that is no filter.
fn refusal(text: &str) -> String {
    match Filter::parse(text) {
        Ok(filter) => panic!("{text:?} was read as {filter:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn text_has_conditions_that_all_hold() {
    let read = Filter::parse("country!=US;device=phone,tablet").unwrap();
    let device = devices(&[Device::Phone, Device::Tablet]);
    assert_eq!(read, Filter::All(vec![not(countries(&["US"])), device.clone()]));
    assert_eq!(Filter::parse("device=tablet,phone,tablet"), Ok(device));
    for nothing in ["", "  ", "{}", "country=*", "user_id=*;ip=*", "country=US,*"] {
        assert_eq!(Filter::parse(nothing), Ok(Filter::EVERYTHING), "{nothing:?}");
    }
    assert_eq!(Filter::parse("country!=*"), Ok(Filter::Any(vec![])));
}

#[test]
fn blanks_around_columns_operators_and_values_are_nothing() {
    let read = Filter::parse(" Country != us , Germany ;\tDEVICE = Phone ");
    assert_eq!(read, Filter::parse("country!=US,DE;device=phone"));
    assert_eq!(Filter::parse("publisher= a b , c "), Ok(publishers(&["a b", "c"])));
}

#[test]
fn a_backslash_takes_the_next_character_as_it_is() {
    for (text, name) in [
        ("publisher=a\\,b", "a,b"),
        ("publisher=a\\;b", "a;b"),
        ("publisher=a\\\\b", "a\\b"),
        ("publisher=\\*", "*"),
        ("publisher=\\=a", "=a"),
        ("publisher=a=b", "a=b"),
        ("publisher=\\a\\b", "ab"),
        ("publisher=a\\\\", "a\\"),
        ("publisher=*a", "*a"),
        ("publisher={\"a\"}", "{\"a\"}"),
        ("publisher=/1234/home?a&b", "/1234/home?a&b"),
    ] {
        assert_eq!(Filter::parse(text), Ok(publishers(&[name])), "{text}");
    }
    assert!(refusal("publisher=a\\").contains("\"a\\\\\" ends with a backslash"));
    // A name has no blank at its end, also where one was written on purpose.
    assert!(refusal("publisher=a\\ ").contains("ends with a space"));
}

#[test]
fn each_column_is_read_by_each_of_its_names() {
    for (text, wanted) in [
        ("ad=a", Filter::Is(Values::Ad(vec![literal("a")]))),
        ("ad_id=a", Filter::Is(Values::Ad(vec![literal("a")]))),
        ("publisher_id=a", publishers(&["a"])),
        ("placement=a", Filter::Is(Values::Placement(vec![literal("a")]))),
        ("placement_id=a", Filter::Is(Values::Placement(vec![literal("a")]))),
        ("campaign=a", Filter::Is(Values::Campaign(vec![literal("a")]))),
        ("campaign_id=a", Filter::Is(Values::Campaign(vec![literal("a")]))),
        ("advertiser=a", Filter::Is(Values::Advertiser(vec![literal("a")]))),
        ("advertiser_id=a", Filter::Is(Values::Advertiser(vec![literal("a")]))),
        ("network=123.1.2.3", networks(&["123.1.2.0"])),
        ("ip=123.1.2.3", networks(&["123.1.2.0"])),
        ("device=TV", devices(&[Device::Tv])),
        (
            "reason=bot,valid,Prefetch",
            Filter::Is(Values::Reason(vec![None, Some(Reason::Prefetch), Some(Reason::Bot)])),
        ),
    ] {
        assert_eq!(Filter::parse(text), Ok(wanted), "{text}");
    }
}

#[test]
fn countries_are_read_by_codes_and_by_names() {
    let read = Filter::parse("country=USA,germany,South Korea,uk,unknown,US");
    assert_eq!(read, Ok(countries(&["DE", "GB", "KR", "US", "ZZ"])));
    assert_eq!(Filter::parse("country=Korea\\, Republic of"), Ok(countries(&["KR"])));
}

#[test]
fn a_region_is_a_part_of_a_country_or_a_whole_one() {
    for whole in ["region=usa", "region=US", "region=United States"] {
        assert_eq!(Filter::parse(whole), Ok(countries(&["US"])), "{whole}");
    }
    assert_eq!(Filter::parse("region=us-ca,UK-ENG"), Ok(places(&["GB-ENG", "US-CA"])));
    // Without the hyphen these would be codes and names of countries.
    assert_eq!(Filter::parse("region=AR-G,ES-P,MA-LI"), Ok(places(&["AR-G", "ES-P", "MA-LI"])));
    assert_eq!(Filter::parse("region=Guinea-Bissau"), Ok(countries(&["GW"])));
    let both = Filter::Any(vec![countries(&["DE"]), places(&["US-CA"])]);
    assert_eq!(Filter::parse("region=US-CA,DE"), Ok(both.clone()));
    assert_eq!(Filter::parse("region!=US-CA,DE"), Ok(not(both)));
    for wrong in ["US-", "US-CALI", "QQ-A", "ZZ-A", "USA-CA", "California", "-CA", "US-C A"] {
        let said = refusal(&format!("region={wrong}"));
        assert!(said.contains(&format!("region: {wrong:?}")) && said.contains("US-CA"), "{said}");
    }
}

#[test]
fn a_network_is_what_is_kept_of_an_address() {
    let four = networks(&["123.1.2.0"]);
    for text in ["123.1.2.3", "123.1.2.0/24", "123.1.2.9/24", "::ffff:123.1.2.3"] {
        assert_eq!(Filter::parse(&format!("ip={text}")), Ok(four.clone()), "{text}");
    }
    assert_eq!(Filter::parse("network=047b0102000000"), Ok(four));
    let six = networks(&["2001:db8:1::"]);
    for text in ["2001:db8:1::/48", "2001:DB8:1:2::7", "0620010DB80001"] {
        assert_eq!(Filter::parse(&format!("network={text}")), Ok(six.clone()), "{text}");
    }
    let hashed = Filter::Is(Values::Network(vec![Network([1, 2, 3, 4, 5, 6, 7])]));
    assert_eq!(Filter::parse("network=01020304050607"), Ok(hashed));
    let unknown = Filter::Is(Values::Network(vec![Network::default()]));
    assert_eq!(Filter::parse("network=unknown"), Ok(unknown));
    for wrong in ["123.1.0.0/16", "123.1.2.3/32", "2001:db8::/32", "1.2.3", "0x", "1.2.3.4/"] {
        let said = refusal(&format!("ip={wrong}"));
        assert!(said.contains(&format!("network: {wrong:?}")), "{said}");
        assert!(said.contains("/24") && said.contains("/48"), "{said}");
    }
}

#[test]
fn the_networks_that_are_asked_for_are_told_wherever_they_stand() {
    let text = r#"{"any":[{"ip":"9.9.9.9"},{"not":{"ip":["1.2.3.4","9.9.9.1"]}},{"device":"tv"}]}"#;
    let found: Vec<_> = Filter::parse(text).unwrap().networks().collect();
    let wanted = ["1.2.3.0", "9.9.9.0"].map(|a| Network::from_address(a.parse().unwrap()));
    assert_eq!(found, wanted);
    assert_eq!(Filter::parse("country=US").unwrap().networks().count(), 0);
}

#[test]
fn what_is_wrong_in_a_text_is_named_with_what_to_do() {
    for (text, words) in [
        ("colour=red", &["no column \"colour\"", "publisher (publisher_id)", "reason"][..]),
        ("country", &["\"country\" has no `=`", "`column!=value`"]),
        ("country=US;phone", &["\"phone\" has no `=`"]),
        ("country!==US", &["\"country!==US\"", "no operator `!==`", "`!=`"]),
        ("country==US", &["no operator `==`"]),
        ("country<US", &["no operator `<`"]),
        ("country=~US", &["no operator `=~`"]),
        ("country= !US", &["no operator `= !`"]),
        ("country=US,!CA", &["\"!CA\"", "no operator `!`", "backslash"]),
        ("country=", &["country: a value is empty"]),
        ("ip= ;device=phone", &["network: a value is empty"]),
        ("country=US,,CA", &["country: a value is empty"]),
        ("country=US;", &["no condition"]),
        (";country=US", &["no condition"]),
        ("country=US;;device=tv", &["no condition"]),
        ("=US", &["no column \"\""]),
        ("country=US-CA", &["country: \"US-CA\"", "region=US-CA"]),
        ("country=QQ", &["country: \"QQ\"", "`USA`", "`ZZ`"]),
        ("country=*,QQ", &["country: \"QQ\""]),
        ("device=watch", &["device: \"watch\"", "unknown, desktop, phone, tablet, tv"]),
        ("reason=expired", &["reason: \"expired\"", "`valid`", "data_centre, too_many_clicks"]),
        ("ad=a\u{200b}b", &["ad: \"a\\u{200b}b\"", "U+200B"]),
        ("user=7", &["only `*`", "not kept by user id", "fingerprint"]),
        ("user_id!=7", &["only `*`"]),
    ] {
        let said = refusal(text);
        for word in words {
            assert!(said.contains(word), "{text}: {said}");
        }
    }
}

#[test]
fn json_has_columns_that_all_hold_and_puts_filters_together() {
    let read = |value: Value| Filter::from_json(&value).unwrap();
    let (us, phone) = (countries(&["CA", "US"]), devices(&[Device::Phone]));
    assert_eq!(
        read(json!({"country": ["US", "CA"], "device": "phone"})),
        Filter::All(vec![us.clone(), phone.clone()])
    );
    assert_eq!(
        read(json!({"any": [{"country": ["US", "CA"]}, {"not": {"device": "phone"}}]})),
        Filter::Any(vec![us.clone(), not(phone.clone())])
    );
    assert_eq!(
        read(json!({"all": [{"all": [{"country": "USA"}, {}]}, {"any": [{"device": "phone"}]}]})),
        Filter::All(vec![countries(&["US"]), phone.clone()])
    );
    assert_eq!(read(json!({"any": []})), Filter::Any(vec![]));
    assert_eq!(read(json!({"not": {"not": {"device": "phone"}}})), phone);
    assert_eq!(read(json!({"not": {"user": "*"}})), Filter::Any(vec![]));
    assert_eq!(
        read(json!({"publisher": [7, "*a", "\\*", "\\\\*", "\\a"]})),
        publishers(&["*", "*a", "7", "\\*", "\\a"])
    );
    assert_eq!(Filter::parse(" {\"country\":[\"US\",\"CA\"]} "), Ok(us));
}

#[test]
fn what_is_wrong_in_json_is_named_with_what_to_do() {
    for (text, words) in [
        ("{\"country\":\"US\"", &["cannot be read as JSON", "line 1"][..]),
        ("{\"country\":\"US\"} x", &["cannot be read as JSON"]),
        ("{\"a\":{\"country\":\"US\",\"country\":\"CA\"}}", &["\"country\" is there twice"]),
        ("{\"colour\":\"red\"}", &["no column \"colour\"", "ad (ad_id)", "`all`"]),
        ("{\"country\":[]}", &["country: a value is empty"]),
        ("{\"country\":\" \"}", &["country: a value is empty"]),
        ("{\"country\":null}", &["country: ", "a text", "null"]),
        ("{\"country\":[[\"US\"]]}", &["country: ", "[\"US\"]"]),
        ("{\"ad\":1.5}", &["ad: ", "1.5"]),
        ("{\"ip\":true}", &["network: ", "true"]),
        ("{\"any\":{\"country\":\"US\"}}", &["any: a list of filters", "{\"country\":\"US\"}"]),
        ("{\"not\":[]}", &["not: a filter is an object", "[]"]),
        ("{\"all\":[\"country=US\"]}", &["all: a filter is an object", "\"country=US\""]),
        ("{\"user_id\":[\"*\",\"7\"]}", &["only `*`"]),
        ("{\"country\":\"=US\"}", &["country: \"=US\""]),
    ] {
        let said = refusal(text);
        for word in words {
            assert!(said.contains(word), "{text}: {said}");
        }
    }
    let said = Filter::from_json(&json!("country=US")).unwrap_err().to_string();
    assert!(said.contains("filter: a filter is an object"), "{said}");
}

#[test]
fn a_row_of_a_table_of_filters_is_read_with_its_id() {
    let row = json!({"filter_id": "0013", "region": "usa", "ip": "123.1.2.3", "user_id": "*"});
    let (id, filter) = Filter::from_row(&row).unwrap();
    assert_eq!(id.as_deref(), Some("0013"));
    let Filter::All(parts) = filter else { panic!("{filter:?}") };
    assert_eq!(parts.len(), 2);
    assert!(parts.contains(&countries(&["US"])) && parts.contains(&networks(&["123.1.2.0"])));
    let everything = Ok((Some("7".to_owned()), Filter::EVERYTHING));
    assert_eq!(Filter::from_row(&json!({"filter_id": 7, "region": "*"})), everything);
    assert_eq!(Filter::from_row(&json!({"device": "tv"})), Ok((None, devices(&[Device::Tv]))));
    let said = Filter::from_row(&json!({"filter_id": [7]})).unwrap_err().to_string();
    assert!(said.contains("filter_id: an id is a text"), "{said}");
    // Elsewhere it is no column.
    assert!(refusal("{\"filter_id\":\"0013\"}").contains("no column \"filter_id\""));
}

#[test]
fn what_is_beyond_a_limit_is_refused_and_what_is_within_is_not() {
    let text = |bytes| format!("ad=a{}", " ".repeat(bytes - 4));
    assert!(Filter::parse(&text(TEXT_BYTES_MAX)).is_ok());
    assert_eq!(Filter::parse(&text(8_193)), Err(FilterError::TooLong(8_193)));

    let deep = |levels: usize| {
        format!("{}{{}}{}", "{\"any\":[".repeat(levels - 1), "]}".repeat(levels - 1))
    };
    assert!(Filter::parse(&deep(LEVELS_MAX)).is_ok());
    for levels in [9, 60] {
        assert_eq!(Filter::parse(&deep(levels)), Err(FilterError::TooDeep));
    }
    assert!(refusal(&deep(200)).contains("recursion"));

    let conditions = |count| vec!["ad=a"; count].join(";");
    assert!(Filter::parse(&conditions(CONDITIONS_MAX)).is_ok());
    assert_eq!(Filter::parse(&conditions(65)), Err(FilterError::TooManyConditions));
    for empty in [json!({}), json!({"any": []}), json!({"region": ["US", "US-CA"]})] {
        let many = json!({"any": vec![empty.clone(); 65]});
        assert_eq!(Filter::from_json(&many), Err(FilterError::TooManyConditions), "{empty}");
    }

    let values = |count| json!({"ad": vec!["a"; count], "device": ["tv"]});
    assert!(Filter::from_json(&values(VALUES_MAX - 1)).is_ok());
    let Err(FilterError::TooManyValues { .. }) = Filter::from_json(&values(VALUES_MAX)) else {
        panic!("1001 values are taken");
    };
    let Err(error) = Filter::parse(&vec!["ad=a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a"; 64].join(";"))
    else {
        panic!("1088 values are taken");
    };
    assert!(error.to_string().contains("1000 values in all, at ad"), "{error}");
}

#[test]
fn a_message_shows_the_beginning_of_a_long_text_alone() {
    let long = "é".repeat(2_000);
    for text in [long.clone(), format!("{long}=a"), format!("country={long}")] {
        let said = refusal(&text);
        assert!(said.contains(&"é".repeat(64)) && said.len() < 1_000, "{said}");
    }
}
