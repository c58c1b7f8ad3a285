//! Reports beside a plain list of all events.

use std::collections::{BTreeMap, BTreeSet};

use shared::event::{Device, Network};
use shared::wire::Judged;
use shared::{AnyId, Country};

use super::*;

type Event = Judged<'static>;
type Is = fn(&Event) -> bool;
type IdOf = fn(&Event) -> AnyId;

fn is_of(event: &Event, country: &str) -> bool {
    event.codes.country == Country::lenient(country)
}

fn network(third: u8) -> Network {
    Network::from_address([10, third, 0, 200].into())
}

/// Filters, and the same in Rust.
const FILTERS: &[(&str, Is)] = &[
    ("", |_| true),
    ("country=DE", |e| is_of(e, "DE")),
    ("country!=Germany; device = phone,tablet", |e| {
        !is_of(e, "DE") && [Device::Phone, Device::Tablet].contains(&e.codes.device)
    }),
    ("region=DE-BE,DE-BY", |e| is_of(e, "DE") && ["BE", "BY"].contains(&&*e.region.to_string())),
    ("ip=10.2.0.17", |e| e.network == network(2)),
    ("network!=10.2.0.0/24,10.3.0.0/24", |e| ![network(2), network(3)].contains(&e.network)),
    ("reason=valid", |e| e.outcome == Ok(None)),
    ("reason=prefetch,bot", |e| {
        [Ok(Some(Reason::Prefetch)), Ok(Some(Reason::Bot))].contains(&e.outcome)
    }),
    ("publisher=example.com", |e| e.publisher == named("example.com").id()),
    ("placement=side board 1", |e| e.placement == named("side board 1").id()),
    (r"campaign=campaign\, autumn", |e| e.campaign == named("campaign, autumn").id()),
    ("campaign!=c2;advertiser=a2", |e| {
        e.campaign != named("c2").id() && e.advertiser == named("a2").id()
    }),
    ("ad=ad-1,Zz_9,nobody", |e| [named("ad-1").id(), named("Zz_9").id()].contains(&e.ad)),
    ("advertiser=nobody", |_| false),
    (r#"{"any":[{"country":"DE","device":"tv"},{"not":{"publisher":["p1"]}}]}"#, |e| {
        is_of(e, "DE") && e.codes.device == Device::Tv || e.publisher != named("p1").id()
    }),
    (r#"{"region":"de","ip":"10.1.0.1","user_id":"*"}"#, |e| {
        is_of(e, "DE") && e.network == network(1)
    }),
];

/// A kind of thing, one of its names, and the same in Rust.
const THINGS: &[(&str, &str, Is)] = &[
    ("ads", "ad-1", |e| e.ad == named("ad-1").id()),
    ("ads", "mm_10067028.1", |e| e.ad == named("mm_10067028.1").id()),
    ("campaigns", "campaign, autumn", |e| e.campaign == named("campaign, autumn").id()),
    ("advertisers", "a2", |e| e.advertiser == named("a2").id()),
    ("publishers", "p1", |e| e.publisher == named("p1").id()),
    ("placements", "top", |e| e.placement == named("top").id()),
    ("placements", "nowhere", |_| false),
];

fn is_within(event: &Event, from: Minute, to: Minute) -> bool {
    (from..to).contains(&event.at.minute())
}

fn takes(event: &Event, kind: Kind, validity: Validity) -> bool {
    event.kind == kind && validity.takes(event.outcome == Ok(None))
}

/// Every report equals what a plain loop over all events gives.
pub(super) async fn check_reports<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, world: &World) {
    let oracle = &world.oracle;
    let first = *oracle.minutes.first().unwrap();
    let last = Minute(oracle.minutes.last().unwrap().0 + 1);
    check_live(aggregator, &oracle.events).await;
    for (at, (text, passes)) in FILTERS.iter().enumerate() {
        let filter = shared::text::escaped(text);
        let (kind, validity) = asked().nth(at * 5 % 12).unwrap();
        let (from, to) = [(START, last), (first, Minute(first.0 + 5)), (first, last)][at % 3];
        let meant: Vec<&Event> = oracle
            .events
            .iter()
            .filter(|event| is_within(event, from, to) && passes(event))
            .collect();
        let which = format!("event={kind}&validity={validity}&{}&where={filter}", range(from, to));
        let counted: Vec<&Event> =
            meant.iter().copied().filter(|event| takes(event, kind, validity)).collect();
        check_counts(aggregator, &which, &counted).await;
        check_top(aggregator, &which, &counted).await;
        let which = format!("{}&where={filter}", range(from, to));
        check_series(aggregator, &which, &meant, from, to).await;
        check_breakdown(aggregator, &which, &meant).await;
    }
}

/// The first event of the live stream has the state of the last minutes.
async fn check_live<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, events: &[Event]) {
    let request = Request::builder().uri("/v1/live?window=60&event=served&count=2");
    let request = request.body(Body::empty()).unwrap();
    let router = api::Principal::Operator.asks(aggregator.router());
    let mut body = router.oneshot(request).await.unwrap().into_body().into_data_stream();
    let first = futures::StreamExt::next(&mut body).await.unwrap().unwrap();
    let text = String::from_utf8(first.to_vec()).unwrap();
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    assert!(text.contains("event: live\n") && text.contains("id: "), "{text}");
    let live: Value = serde_json::from_str(data).unwrap();
    // The clock of these tests stands ten minutes after the start.
    let end = Minute(START.0 + 11);
    let within: Vec<&Event> =
        events.iter().filter(|event| is_within(event, Minute(end.0 - 60), end)).collect();
    let expected = metrics(&within);
    for field in ["served", "impressions", "viewable", "clicks", "flagged"] {
        assert_eq!(live[field], expected[field], "{field}: {live}");
    }
    let listed = live["top"].as_array().unwrap();
    let most = listed.first().map_or(0, |place| place["count"].as_u64().unwrap());
    let served = |ad: &'static str| {
        let own = within.iter().filter(|event| event.ad == named(ad).id());
        own.filter(|event| takes(event, Kind::Served, Validity::Valid)).count() as u64
    };
    assert_eq!(most, crate::testing::ADS.map(served).into_iter().max().unwrap(), "{live}");
}

async fn check_counts<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    which: &str,
    counted: &[&Event],
) {
    for (things, id, is_of) in THINGS {
        let own: Vec<_> = counted.iter().filter(|event| is_of(event)).collect();
        let path = format!("/v1/{things}/{}", shared::text::escaped(id));
        let body = good(aggregator, &format!("{path}/count?{which}")).await;
        assert_eq!(body["count"], own.len(), "{path} {which}: {body}");
        assert_eq!((&body["id"], body["of"].as_str()), (&json!(id), things.strip_suffix('s')));
        if *things == "ads" {
            let body = good(aggregator, &format!("{path}/aggregated_count?{which}")).await;
            assert_eq!(body["count"], own.len(), "{path} {which}: {body}");
        }
        let body = good(aggregator, &format!("{path}/uniques?{which}")).await;
        let visitors: BTreeSet<u64> = own.iter().map(|event| event.visitor.0).collect();
        let known = visitors.iter().filter(|visitor| **visitor != 0).count();
        assert_eq!(body["uniques"], known, "{path} {which}: {body}");
        assert_eq!((&body["exact"], &body["events"]), (&json!(true), &json!(own.len())));
        let without = own.iter().filter(|event| event.visitor.0 == 0).count();
        assert_eq!(body["without_visitor"], without);
    }
}

async fn check_top<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    which: &str,
    counted: &[&Event],
) {
    let of: [(&str, IdOf); 3] = [
        ("ads", |event| event.ad.any()),
        ("campaigns", |event| event.campaign.any()),
        ("placements", |event| event.placement.any()),
    ];
    let names = ["campaign", "campaign, autumn", "c2", "top", "side board 1"];
    for (things, id) in of {
        let body = good(aggregator, &format!("/v1/top?of={things}&count=3&{which}")).await;
        let mut counts: BTreeMap<AnyId, u64> = BTreeMap::new();
        for event in counted.iter().filter(|event| !id(event).is_none()) {
            *counts.entry(id(event)).or_default() += 1;
        }
        let all = crate::testing::ADS.iter().chain(&names);
        let mut named: Vec<(&str, u64)> = all
            .filter_map(|name| Some((*name, *counts.get(&named::<shared::name::Any>(name).id())?)))
            .collect();
        named.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        named.truncate(3);
        let expected: Vec<_> =
            named.iter().map(|(id, count)| json!({"id": id, "count": count})).collect();
        assert_eq!(body["top"], json!(expected), "{things} {which}");
    }
}

/// What the metrics of some events must be.
fn metrics(events: &[&Event]) -> Value {
    let of = |kind| events.iter().filter(|e| takes(e, kind, Validity::Valid)).count();
    let (impressions, clicks) = (of(Kind::Impression), of(Kind::Click));
    let valid = events.iter().filter(|e| takes(e, Kind::Impression, Validity::Valid));
    let spend: i64 = valid.map(|event| event.price.micros).sum();
    let mut flagged: BTreeMap<String, u64> = BTreeMap::new();
    for reason in events.iter().filter_map(|event| event.outcome.unwrap()) {
        *flagged.entry(reason.to_string()).or_default() += 1;
    }
    let money = |micros: i64| if spend > 0 { json!({"EUR": micros}) } else { json!({}) };
    let mut all = json!({
        "served": of(Kind::Served), "impressions": impressions, "viewable": of(Kind::Viewable),
        "clicks": clicks, "flagged": flagged, "spend_micros": money(spend),
        "ecpm_micros": {}, "ecpc_micros": {},
    });
    if impressions > 0 {
        let count = i64::try_from(impressions).unwrap();
        all["click_rate"] = json!(clicks as f64 / impressions as f64);
        all["viewable_rate"] = json!(of(Kind::Viewable) as f64 / impressions as f64);
        all["ecpm_micros"] = money(spend * 1_000 / count);
    }
    if clicks > 0 {
        all["ecpc_micros"] = money(spend / i64::try_from(clicks).unwrap());
    }
    // As the answer is read: the last digit of a rate is rounded by the reader.
    serde_json::from_str(&all.to_string()).unwrap()
}

async fn check_series<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    which: &str,
    meant: &[&Event],
    from: Minute,
    to: Minute,
) {
    for (step, minutes) in [("quarter", 15), ("hour", 60), ("day", 1_440)] {
        if (to.0 - from.0) / minutes > 10_000 {
            continue;
        }
        let uri = format!("/v1/publishers/p1/series?step={step}&{which}");
        let body = good(aggregator, &uri).await;
        let points = body["points"].as_array().unwrap();
        let mut start = from;
        for point in points {
            let end = Minute((start.0 / minutes + 1) * minutes).min(to);
            let own = meant
                .iter()
                .copied()
                .filter(|e| e.publisher == named("p1").id() && is_within(e, start, end));
            let mut expected = metrics(&own.collect::<Vec<_>>());
            expected["start"] = json!(start.start().to_string());
            assert_eq!(*point, expected, "{uri}");
            start = end;
        }
        assert_eq!(start, to, "{uri}: {} points", points.len());
    }
}

async fn check_breakdown<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    which: &str,
    meant: &[&Event],
) {
    let uri = format!("/v1/advertisers/a2/breakdown?by=country,campaign&count=2&{which}");
    let body = good(aggregator, &uri).await;
    let own = meant.iter().copied().filter(|event| event.advertiser == named("a2").id());
    let mut groups: BTreeMap<(String, &str), Vec<&Event>> = BTreeMap::new();
    let mut all = 0;
    for event in own {
        let campaigns = ["campaign, autumn", "c2"];
        let campaign = campaigns.iter().find(|name| named(name).id() == event.campaign).unwrap();
        groups.entry((event.codes.country.to_string(), campaign)).or_default().push(event);
        all += 1;
    }
    assert_eq!(body["groups_in_all"], groups.len(), "{uri}: {body}");
    let listed = body["groups"].as_array().unwrap();
    assert_eq!(listed.len(), groups.len().min(2));
    let mut events = 0;
    let clicks = |events: &[&Event]| {
        events.iter().filter(|event| takes(event, Kind::Click, Validity::Valid)).count()
    };
    let mut last = usize::MAX;
    for group in listed {
        let key = &group["group"];
        let key = (key["country"].as_str().unwrap().to_owned(), key["campaign"].as_str().unwrap());
        let own = groups.remove(&key).unwrap();
        let mut expected = metrics(&own);
        expected["group"] = group["group"].clone();
        assert_eq!(*group, expected, "{uri}");
        assert!(clicks(&own) <= last, "{uri}: most first");
        last = clicks(&own);
        events += own.len();
    }
    let rest: Vec<&Event> = groups.into_values().flatten().collect();
    assert!(rest.len() + events == all, "{uri}");
    assert_eq!(body["other"], metrics(&rest), "{uri}");
}
