//! What is printed is read as the same filter.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use shared::event::VERDICTS;
use shared::name::Named;
use shared::{Country, Device, NameBuf, Network, Verdict};

use super::{countries, devices, networks, not, places, publishers};
use crate::filter::{Filter, Place, Values};

#[test]
fn a_filter_is_printed_as_text_where_text_can_say_it() {
    let both = Filter::Any(vec![countries(&["DE"]), places(&["US-CA"])]);
    for (filter, text) in [
        (Filter::EVERYTHING, ""),
        (countries(&["US", "CA"]), "country=CA,US"),
        (not(both.clone()), "region!=DE,US-CA"),
        (
            Filter::All(vec![networks(&["1.2.3.4", "2001:db8:1:2::7"]), not(devices(&[]))]),
            "network=1.2.3.0/24,2001:db8:1::/48",
        ),
        (publishers(&["a,b;c\\d=e", "*", "!x", "*y"]), "publisher=\\!x,\\*,*y,a\\,b\\;c\\\\d=e"),
        (Filter::Is(Values::Network(vec![Network([1; 7])])), "network=01010101010101"),
        (Filter::Is(Values::Network(vec![Network::default()])), "network=unknown"),
        (Filter::Is(Values::Reason(vec![Some(VERDICTS[2]), None])), "reason=valid,bot"),
        (Filter::Any(vec![]), r#"{"any":[]}"#),
        (
            Filter::Any(vec![devices(&[Device::Tv]), both]),
            r#"{"any":[{"device":["tv"]},{"country":["DE"]},{"region":["US-CA"]}]}"#,
        ),
    ] {
        assert_eq!(filter.to_string(), text);
        assert_eq!(Filter::parse(text), Ok(filter.normal()), "{text}");
    }
}

#[test]
fn json_has_the_usual_names() {
    let text = "ip=1.2.3.4;region!=usa,US-CA;publisher_id=\\*,\\\\*";
    let wanted = json!({"all": [
        {"network": ["1.2.3.0/24"]},
        {"not": {"region": ["US", "US-CA"]}},
        {"publisher": ["\\*", "\\\\*"]},
    ]});
    assert_eq!(Filter::parse(text).unwrap().to_json(), wanted);
    assert_eq!(Filter::EVERYTHING.to_json(), json!({"all": []}));
}

fn list<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(of, 0..4)
}

fn country() -> impl Strategy<Value = Country> {
    select(&["US", "DE", "ZZ", "GB", "XK"][..]).prop_map(|code| code.parse().unwrap())
}

fn place() -> impl Strategy<Value = Place> {
    select(&["US-CA", "AR-G", "GB-ENG", "FR-75", "MA-LI"][..]).prop_map(|p| p.parse().unwrap())
}

/// Names of the characters that mean something in text or JSON.
fn name<T: Named>() -> impl Strategy<Value = NameBuf<T>> {
    let character = select(&[',', ';', '\\', '*', '=', '!', '<', '~', '{', '"', ' ', 'a', 'é'][..]);
    let text = prop::collection::vec(character, 1..5);
    text.prop_filter_map("it is no name", |text| String::from_iter(text).parse().ok())
}

fn network() -> impl Strategy<Value = Network> {
    let prefix = any::<[u8; 6]>();
    (select(&[4_u8, 6, 1, 0, 9][..]), prefix).prop_map(|(kind, [a, b, c, d, e, f])| match kind {
        4 => Network([4, a, b, c, 0, 0, 0]),
        kind => Network([kind, a, b, c, d, e, f]),
    })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop::option::of(select(VERDICTS))
}

fn values() -> impl Strategy<Value = Values> {
    prop_oneof![
        list(country()).prop_map(Values::Country),
        list(place()).prop_map(Values::Region),
        list(network()).prop_map(Values::Network),
        list(select(Device::ALL)).prop_map(Values::Device),
        list(name()).prop_map(Values::Ad),
        list(name()).prop_map(Values::Publisher),
        list(name()).prop_map(Values::Placement),
        list(name()).prop_map(Values::Campaign),
        list(name()).prop_map(Values::Advertiser),
        list(verdict()).prop_map(Values::Reason),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    values().prop_map(Filter::Is).prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            list(inner.clone()).prop_map(Filter::All),
            list(inner.clone()).prop_map(Filter::Any),
            inner.prop_map(not),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_as_the_same_filter(filter in filter()) {
        let normal = filter.clone().normal();
        prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(normal.clone()));
        prop_assert_eq!(Filter::from_json(&filter.to_json()), Ok(normal.clone()));
        prop_assert_eq!(normal.clone().normal(), normal);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}", json in any::<bool>()) {
        let text = if json { format!("{{{text}") } else { text };
        if let Ok(filter) = Filter::parse(&text) {
            prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
        }
    }
}
