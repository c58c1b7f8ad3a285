//! `partitions.json`: everything that two programs must derive alike.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::import;
use shared::keys::{DeploymentId, KeyId, PriceKey, PublicKey, Secret, TagKeys, VisitorKey};
use shared::random::Seeded;
use shared::text::{hex, unhex};
use shared::{
    BlockId, ImpressionId, Money, Network, OutboxId, PageView, PartitionMap, Partitions, Random,
    SourceId, Timestamp,
};

use super::vectors::compare;
use super::world::{NOW, id, price, store};

#[test]
fn partitions() {
    let file = json!({
        "what": "Values that are derived: partitions, blocks of imported logs, key ids, and keys from secrets. All hex is of bytes in order.",
        "blocks": blocks(),
        "pages": pages(),
        "tallies": tallies(),
        "sources": sources(),
        "import_blocks": import_blocks(),
        "key_ids": key_ids(),
        "tag_keys": tag_keys(),
        "prices": prices(),
        "visitors": visitors(),
    });
    compare("partitions.json", &file);
}

fn map(count: u16) -> PartitionMap {
    PartitionMap::new(Partitions::new(count).unwrap())
}

fn pages() -> Vec<Value> {
    let pages = [0, 1, 0x0102_0304_0506_0708, u64::MAX].map(PageView);
    let case = |page: PageView| {
        let partitions =
            [1, 16, 1_024].map(|count| (count.to_string(), map(count).of_page_view(page)));
        json!({ "page": page, "partition": BTreeMap::from(partitions) })
    };
    pages.into_iter().map(case).collect()
}

fn blocks() -> Vec<Value> {
    let mut random = Seeded::new(3);
    let mut cases = vec![(shared::IssuerId::NONE, BlockId::default())];
    for issuer in ["house", "a", "Az09_-Az09_-Az09", "import"] {
        let mut block = [0; 10];
        random.fill(&mut block);
        cases.push((id(issuer), BlockId(block)));
    }
    let counts = [1, 2, 16, 1_024];
    let vector = |((issuer, block), count): ((shared::IssuerId, BlockId), u16)| {
        let partition = map(count).of_block(issuer, block);
        assert!(partition < count);
        json!({ "issuer": issuer, "block": hex(&block.0), "count": count, "partition": partition })
    };
    cases.iter().flat_map(|case| counts.map(|count| (*case, count))).map(vector).collect()
}

fn tallies() -> Vec<Value> {
    let cases = [("edge-1", 0), ("edge-1", 1), ("edge-2", 0), ("e", u64::MAX)];
    let vector = |(edge, epoch): (&'static str, u64)| {
        let partition = map(16).of_tallies(OutboxId { edge: id(edge), epoch });
        json!({ "edge": edge, "epoch": epoch.to_string(), "count": 16, "partition": partition })
    };
    cases.into_iter().map(vector).collect()
}

fn sources() -> Vec<Value> {
    let named = ["shop.log", "", "Üñí"]
        .map(|name| json!({ "name": name, "source": import::named_source(name) }));
    let contents = [*blake3::hash(b"").as_bytes(), [7; 32]].map(|digest| {
        json!({ "content_digest": hex(&digest), "source": import::unnamed_source(&digest) })
    });
    named.into_iter().chain(contents).collect()
}

fn import_blocks() -> Vec<Value> {
    let vector = |(source, row): (u8, u64)| {
        let source = SourceId([source; 16]);
        let ImpressionId { block, seq } = import::impression(source, row);
        assert_eq!(block, import::block(source, row / 65_536));
        json!({ "source": source, "row": row.to_string(), "block": hex(&block.0), "seq": seq })
    };
    let cases = [(0, 0), (0, 65_535), (0, 65_536), (0xa5, 0), (0xa5, u64::MAX)];
    cases.into_iter().map(vector).collect()
}

fn key_ids() -> Vec<Value> {
    let store = store();
    let vector =
        |public: &[u8; 32]| json!({ "public": hex(public), "id": PublicKey::id_of(public) });
    store.issuers.iter().map(|key| vector(&key.public.public)).collect()
}

fn tag_keys() -> Vec<Value> {
    let vector = |(secret, deployment, day): (u8, u32, u32)| {
        let deployment = DeploymentId(deployment);
        let key = TagKeys::of_deployment(Secret::from_bytes([secret; 32]), deployment).of_day(day);
        json!({
            "edge_secret": hex(&[secret; 32]), "deployment": deployment, "day": day, "key": hex(&key),
        })
    };
    let cases = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0xab, u32::MAX, NOW.day())];
    let of_key = |(seed, day): (u8, u32)| {
        let key = TagKeys::of_key(Secret::from_bytes([seed; 32])).of_day(day);
        json!({ "signing_seed": hex(&[seed; 32]), "day": day, "key": hex(&key) })
    };
    let by_key = [(0, 0), (1, 0), (0, 1), (0xab, NOW.day())].into_iter().map(of_key);
    cases.into_iter().map(vector).chain(by_key).collect()
}

fn prices() -> Vec<Value> {
    let central = Secret::from_bytes([0x11; 32]);
    let vector = |(key, seq, price): (u32, u16, Money)| {
        let impression = ImpressionId { block: BlockId([3; 10]), seq };
        let cover = PriceKey::derive(&central, KeyId(key));
        let sealed = cover.seal(impression, price);
        assert_eq!(cover.open(impression, sealed), Some(price));
        json!({
            "price_secret": hex(central.expose()), "key": KeyId(key), "block": hex(&impression.block.0),
            "seq": seq, "micros": price.micros, "currency": price.currency.to_string(),
            "covered": hex(&sealed),
        })
    };
    let cases = [(1, 0, price()), (2, 0, price()), (1, 1, price()), (1, 0, Money::ZERO)];
    cases.into_iter().map(vector).collect()
}

fn visitors() -> Vec<Value> {
    let key = VisitorKey::new(Secret::from_bytes([0x22; 32]));
    let request = |(address, agent, at): (&str, &str, Timestamp)| {
        let network = Network::from_address(address.parse().unwrap());
        let visitor = key.of_request(at, network, agent.as_bytes());
        json!({
            "address": address, "network": network, "user_agent": agent, "day": at.day(),
            "visitor": format!("{:016x}", visitor.0),
        })
    };
    let requests = [
        ("192.0.2.1", "Mozilla/5.0", NOW),
        ("192.0.2.254", "Mozilla/5.0", NOW),
        ("::ffff:192.0.2.1", "Mozilla/5.0", NOW),
        ("192.0.3.1", "Mozilla/5.0", NOW),
        ("2001:db8:1:2::3", "", NOW),
        ("192.0.2.1", "Mozilla/5.0", NOW.plus_ms(86_400_000)),
    ];
    let user =
        |user: &str| json!({ "user": user, "visitor": format!("{:016x}", key.of_user(user).0) });
    requests.into_iter().map(request).chain(["u1", ""].map(user)).collect()
}

/// A large number of blocks spreads evenly.
#[test]
fn blocks_spread_over_all_partitions() {
    let map = map(16);
    let mut random = Seeded::new(4);
    let mut counts = [0_u32; 16];
    for _ in 0..16_000 {
        let mut block = [0; 10];
        random.fill(&mut block);
        counts[usize::from(map.of_block(id("house"), BlockId(block)))] += 1;
    }
    assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
}

#[test]
fn the_number_of_partitions_has_bounds() {
    assert_eq!(Partitions::new(0), None);
    assert_eq!(Partitions::new(1_025), None);
    assert_eq!(Partitions::new(1_024).unwrap().all().last(), Some(1_023));
    assert_eq!(unhex::<2>("00ff"), Some([0, 255]));
}
