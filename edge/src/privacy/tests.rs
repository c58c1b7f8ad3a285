use iab_gpp::sections::tcfeuv2::TcfEuV2;
use proptest::prelude::*;

use super::*;

/// Writes bits as base64url.
#[derive(Clone, Default)]
struct Writer(Vec<bool>);

impl Writer {
    fn put(mut self, number: u32, bits: u32) -> Self {
        self.0.extend((0..bits).rev().map(|bit| u64::from(number) >> bit & 1 == 1));
        self
    }

    fn text(&self) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let six = |six: &[bool]| {
            let number = (0..6).fold(0, |n, at| n << 1 | usize::from(six.get(at) == Some(&true)));
            char::from(ALPHABET[number])
        };
        self.0.chunks(6).map(six).collect()
    }
}

#[derive(Clone, Debug)]
enum Vendors {
    Bits(Vec<bool>),
    Ranges(Vec<(u16, Option<u16>)>),
}

impl Vendors {
    fn write(&self, to: Writer) -> Writer {
        match self {
            Self::Bits(bits) => {
                let to = to.put(bits.len() as u32, 16).put(0, 1);
                bits.iter().fold(to, |to, bit| to.put((*bit).into(), 1))
            }
            Self::Ranges(ranges) => write_ranges(to.put(65_535, 16).put(1, 1), ranges),
        }
    }

    fn all() -> impl Strategy<Value = Self> {
        let range = (any::<u16>(), prop::option::of(0_u16..300));
        let range = range.prop_map(|(first, more)| (first, more.map(|n| first.saturating_add(n))));
        prop_oneof![
            prop::collection::vec(any::<bool>(), 0..40).prop_map(Self::Bits),
            prop::collection::vec(range, 0..8).prop_map(Self::Ranges),
        ]
    }
}

fn write_ranges(to: Writer, ranges: &[(u16, Option<u16>)]) -> Writer {
    ranges.iter().fold(to.put(ranges.len() as u32, 12), |to, (first, last)| match last {
        None => to.put(0, 1).put((*first).into(), 16),
        Some(last) => to.put(1, 1).put((*first).into(), 16).put((*last).into(), 16),
    })
}

/// A core with these purposes (bit n - 1 for purpose n), vendors, and restrictions: purpose, kind,
/// vendors.
fn core(
    purposes: u32,
    vendors: &Vendors,
    interest: &Vendors,
    restricted: &[(u32, u32, u16)],
) -> String {
    let to = Writer::default().put(2, 6);
    let to = to.put(1, 18).put(7, 18).put(1, 18).put(7, 18).put(31, 12).put(2, 12).put(1, 6);
    // The language DE, list 48, policy 4, two marks, no special features.
    let to = to.put(3, 6).put(4, 6).put(48, 12).put(4, 6).put(0, 2).put(0, 12);
    let to = (1..=24).fold(to, |to, purpose| to.put(purposes >> (purpose - 1) & 1, 1));
    let to = to.put(0, 24).put(0, 1).put(3, 6).put(4, 6);
    let to = interest.write(vendors.write(to)).put(restricted.len() as u32, 12);
    let to = restricted.iter().fold(to, |to, (purpose, kind, vendor)| {
        write_ranges(to.put(*purpose, 6).put(*kind, 2), &[(*vendor, None)])
    });
    to.text()
}

fn purposes(list: &[u32]) -> u32 {
    list.iter().fold(0, |bits, purpose| bits | 1 << (purpose - 1))
}

const ASKED: [u32; 4] = [1, 7, 8, 9];
const NONE: Vendors = Vendors::Bits(Vec::new());

fn of_vendor(vendor: u16) -> PrivacyPolicy {
    PrivacyPolicy { vendor: Some(vendor), ..PrivacyPolicy::default() }
}

fn tcf(text: &str, policy: &PrivacyPolicy) -> bool {
    decide(&Signals { tcf: text, ..Signals::default() }, policy).visitor
}

fn gpp(text: &str, sid: &str) -> bool {
    let signals = Signals { gpp: text, gpp_sid: sid, ..Signals::default() };
    decide(&signals, &PrivacyPolicy::default()).visitor
}

/// The string allows, by its section 6; what else is said about sections decides whether that
/// section counts.
#[test]
fn which_sections_apply() {
    let allows = |sid: &str, consent| {
        let signals = Signals { gpp: "DBABTA~1YNN", gpp_sid: sid, consent, ..Signals::default() };
        decide(&signals, &PrivacyPolicy::default()).visitor
    };
    for (sid, alone, with_consent) in [
        ("", true, true),
        ("6", true, true),
        ("2,6", true, true),
        ("2_6", true, true),
        ("2%2c6", true, true),
        // Not known yet: all sections apply.
        ("0", true, true),
        // Another section applies, or none: the string says nothing.
        ("7", false, true),
        ("-1", false, true),
        ("4000", false, true),
        // A list that cannot be read may name a section that forbids.
        ("x", false, false),
        ("6,x", false, false),
        ("-2", false, false),
        ("6;7", false, false),
        ("99999999999", false, false),
    ] {
        assert_eq!(allows(sid, None), alone, "{sid}");
        assert_eq!(allows(sid, Some(true)), with_consent, "{sid} and consent=1");
    }
    let forbids = Signals { gpp: "DBABTA~1YYN", consent: Some(true), ..Signals::default() };
    for (sid, allowed) in [("0", false), ("6", false), ("7", true), ("-1", true)] {
        let signals = Signals { gpp_sid: sid, ..forbids };
        assert_eq!(decide(&signals, &PrivacyPolicy::default()).visitor, allowed, "{sid}");
    }
}

#[test]
fn one_that_allows_and_none_that_forbids() {
    let all = core(purposes(&ASKED), &NONE, &NONE, &[]);
    let few = core(purposes(&[1, 7]), &NONE, &NONE, &[]);
    let base = Signals::default();
    let cases = [
        ("nothing is said", base, false),
        ("the page has asked", Signals { consent: Some(true), ..base }, true),
        ("the page was told no", Signals { consent: Some(false), ..base }, false),
        ("Sec-GPC alone", Signals { opted_out: true, ..base }, false),
        (
            "Sec-GPC wins",
            Signals { opted_out: true, consent: Some(true), tcf: &all, ..base },
            false,
        ),
        ("all purposes", Signals { tcf: &all, ..base }, true),
        ("few purposes", Signals { tcf: &few, ..base }, false),
        ("few purposes, and the page", Signals { tcf: &few, consent: Some(true), ..base }, false),
        ("all purposes, the page no", Signals { tcf: &all, consent: Some(false), ..base }, false),
        ("unreadable", Signals { tcf: "?", consent: Some(true), ..base }, false),
        (
            "no GDPR: not read",
            Signals { tcf: &few, no_gdpr: true, consent: Some(true), ..base },
            true,
        ),
        ("no GDPR says nothing else", Signals { tcf: &all, no_gdpr: true, ..base }, false),
        ("GPP allows", Signals { gpp: "DBABTA~1YNN", ..base }, true),
        ("GPP forbids", Signals { gpp: "DBABTA~1YYN", consent: Some(true), ..base }, false),
        ("GPP says nothing", Signals { gpp: "DBABTA~1---", ..base }, false),
        (
            "GPP nothing, the page yes",
            Signals { gpp: "DBABTA~1---", consent: Some(true), ..base },
            true,
        ),
        ("GPP unreadable", Signals { gpp: "DB", consent: Some(true), ..base }, false),
    ];
    for (about, signals, expected) in cases {
        assert_eq!(decide(&signals, &PrivacyPolicy::default()).visitor, expected, "{about}");
    }
}

#[test]
fn a_vendor_of_the_list_needs_its_own_consent() {
    let with = |vendors: &Vendors| core(purposes(&ASKED), vendors, &NONE, &[]);
    let bits = with(&Vendors::Bits(vec![false, true, false]));
    let ranges = with(&Vendors::Ranges(vec![(4, None), (700, Some(800))]));
    let cases = [
        (&bits, 1, false),
        (&bits, 2, true),
        (&bits, 3, false),
        (&bits, 4, false),
        (&bits, 0, false),
    ];
    let more =
        [(3, false), (4, true), (5, false), (699, false), (700, true), (800, true), (801, false)];
    let more = more.map(|(vendor, expected)| (&ranges, vendor, expected));
    for (text, vendor, expected) in cases.into_iter().chain(more) {
        assert_eq!(tcf(text, &of_vendor(vendor)), expected, "{vendor} in {text}");
        assert!(tcf(text, &PrivacyPolicy::default()), "without a vendor, none is asked for");
    }
    let interest = core(purposes(&ASKED), &NONE, &Vendors::Bits(vec![true]), &[]);
    assert!(!tcf(&interest, &of_vendor(1)), "legitimate interest is no consent");
}

#[test]
fn a_publisher_may_forbid_more() {
    let one = Vendors::Bits(vec![true, true]);
    let cases = [
        ((7, 0, 1), false),
        ((7, 1, 1), true),
        ((7, 2, 1), false),
        ((7, 0, 2), true),
        ((3, 0, 1), true),
        ((0, 0, 1), true),
        ((63, 0, 1), true),
    ];
    for (restriction, expected) in cases {
        let text = core(purposes(&ASKED), &one, &one, &[(2, 0, 9), restriction]);
        assert_eq!(tcf(&text, &of_vendor(1)), expected, "{restriction:?}");
    }
}

#[test]
fn whatever_cannot_be_read_is_no_consent() {
    let one = Vendors::Bits(vec![true; 20]);
    let text = core(purposes(&ASKED), &one, &NONE, &[(2, 0, 9)]);
    assert!(tcf(&text, &of_vendor(1)) && tcf(&format!("{text}.YAAAAAAAAAA"), &of_vendor(1)));
    for end in 0..text.len() {
        assert!(!tcf(&text[..end], &of_vendor(1)), "cut at {end}");
    }
    for first in ["A", "B", "D", "=", "+", "é"] {
        assert!(!tcf(&format!("{first}{}", &text[1..]), &of_vendor(1)), "{first}");
    }
}

#[test]
fn sections_of_gpp() {
    let eu = core(purposes(&ASKED), &NONE, &NONE, &[]);
    let no = core(0, &NONE, &NONE, &[]);
    // California: version, three notices, opt-outs from sale and sharing.
    let ca = |sale, sharing| {
        Writer::default()
            .put(1, 6)
            .put(0b01_01_01, 6)
            .put(sale, 2)
            .put(sharing, 2)
            .put(0, 32)
            .text()
    };
    // The USA: version, six notices, three opt-outs.
    let nat = |opt_outs| Writer::default().put(2, 6).put(0, 12).put(opt_outs, 6).put(0, 48).text();
    let utah = |opt_outs| Writer::default().put(1, 6).put(0, 8).put(opt_outs, 4).put(0, 24).text();
    // Headers: 2 (DBABM), 6 (DBABTA), 2 and 6 (DBACNY), 5 to 6 (DBABjw), and by hand 7, 8, 11, 24.
    let header = |fibonacci: u32, bits| {
        Writer::default().put(3, 6).put(1, 6).put(1, 12).put(0, 1).put(fibonacci, bits).text()
    };
    let (h7, h8, h11, h24) =
        (header(0b01011, 5), header(0b000011, 6), header(0b001011, 6), header(0b0010_0011, 8));
    let control = |on| Writer::default().put(1, 2).put(on, 1).text();
    let cases = [
        ("TCF", format!("DBABM~{eu}"), "2", true),
        ("TCF without consent", format!("DBABM~{no}"), "2", false),
        ("TCF that does not apply", format!("DBABM~{eu}"), "7", false),
        ("two, both allow", format!("DBACNY~{eu}~1YNN"), "", true),
        ("two, one forbids", format!("DBACNY~{eu}~1YYN"), "", false),
        ("two, one applies", format!("DBACNY~{eu}~1YYN"), "2", true),
        ("two, both apply", format!("DBACNY~{eu}~1YYN"), "2%2C6", false),
        ("two, the other applies", format!("DBACNY~{no}~1YNN"), "6", true),
        ("one that is not read here", "DBABjw~BPXuQIAPXuQIAAfKABENB~1YNN".to_owned(), "", false),
        ("it does not apply", "DBABjw~BPXuQIAPXuQIAAfKABENB~1YNN".to_owned(), "6", true),
        ("California, no opt-out", format!("{h8}~{}", ca(2, 2)), "8", true),
        ("California, sale", format!("{h8}~{}", ca(1, 2)), "8", false),
        ("California, sharing", format!("{h8}~{}", ca(2, 1)), "8", false),
        ("California, nothing", format!("{h8}~{}", ca(0, 0)), "8", false),
        ("California, no such value", format!("{h8}~{}", ca(3, 2)), "8", false),
        ("with global control", format!("{h8}~{}.{}", ca(2, 2), control(1)), "8", false),
        ("with control off", format!("{h8}~{}.{}", ca(2, 2), control(0)), "8", true),
        ("the USA", format!("{h7}~{}", nat(0b10_10_10)), "7", true),
        ("the USA, targeting", format!("{h7}~{}", nat(0b10_10_01)), "7", false),
        ("Utah", format!("{h11}~{}", utah(0b10_10)), "11", true),
        ("Utah, targeting", format!("{h11}~{}", utah(0b10_01)), "11", false),
        ("of tomorrow", format!("{h24}~{}", ca(2, 2)), "", false),
        ("a section too few", format!("DBACNY~{eu}"), "", false),
        ("a section too many", format!("DBABM~{eu}~1YNN"), "", false),
        ("no section", "DBAA".to_owned(), "", false),
        ("another version", format!("DCABM~{eu}"), "", false),
        ("no header", format!("~{eu}"), "", false),
    ];
    for (about, text, sid, expected) in &cases {
        assert_eq!(gpp(text, sid), *expected, "{about}: {text}");
    }
}

#[test]
fn addresses() {
    let key = shared::keys::KeyStore::generate(&mut shared::random::Seeded::new(1)).visitor_key();
    let now = Timestamp(1_768_046_400_000);
    let keep = |how: &str, address: &str, now| {
        let how: Address = how.parse().unwrap();
        how.keep(address.parse().ok(), &key, now).0
    };
    assert_eq!(keep("dropped", "203.0.113.7", now), [0; 7]);
    assert_eq!(keep("truncated", "203.0.113.7", now), [4, 203, 0, 113, 0, 0, 0]);
    let hashed = keep("hashed", "203.0.113.7", now);
    assert_eq!((hashed[0], keep("hashed", "::ffff:203.0.113.7", now)), (1, hashed));
    assert_ne!(hashed, keep("hashed", "203.0.113.8", now));
    assert_ne!(hashed, keep("hashed", "203.0.113.7", Timestamp(now.0 + 86_400_000)));
    assert_eq!(hashed, keep("hashed", "203.0.113.7", Timestamp(now.0 + 1_000)));
    assert!(["hashed", "truncated"].iter().all(|how| keep(how, "nobody", now) == [0; 7]));
    assert!("full".parse::<Address>().is_err());
}

proptest! {
    #[test]
    fn purposes_and_vendors_as_the_library_has_them(
        bits in 0_u32..1 << 24,
        vendors in Vendors::all(),
        interest in Vendors::all(),
        asked in 0_u32..1 << 24,
        vendor in prop_oneof![1_u16..50, any::<u16>()],
    ) {
        let text = core(bits, &vendors, &interest, &[]);
        let read: TcfEuV2 = text.parse().unwrap();
        let has = |purpose: u32| read.core.purpose_consents.contains(&(purpose as u16));
        let all = (1..=24).all(|purpose| asked >> (purpose - 1) & 1 == 0 || has(purpose));
        let vendors = &read.core.vendor_consents;
        let policy = PrivacyPolicy { purposes: asked, ..of_vendor(vendor) };
        prop_assert_eq!(tcf(&text, &policy), all && vendors.contains(&vendor));
        prop_assert_eq!(tcf(&text, &PrivacyPolicy { vendor: None, ..policy }), all);
        for vendor in vendors {
            prop_assert_eq!(tcf(&text, &PrivacyPolicy { vendor: Some(*vendor), ..policy }), all);
        }
    }

    #[test]
    fn any_text_is_taken(a in "[ -~]{0,80}", b in "(DB|C)[A-Za-z0-9_~.-]{0,120}", vendor: u16) {
        for (tcf, gpp, gpp_sid) in [(&*a, &*b, ""), (&*b, &*a, &*a), ("", &*b, "2,7")] {
            let signals = Signals { tcf, gpp, gpp_sid, ..Signals::default() };
            let _ = decide(&signals, &of_vendor(vendor));
        }
    }
}

/// Ranges of all vendors, as many as the head of a request can hold: read in one pass without
/// storing them.
#[test]
fn a_string_that_names_everybody_often_costs_little() {
    let everybody = Vendors::Ranges(vec![(1, Some(65_535)); 2_500]);
    let text = core(purposes(&ASKED), &everybody, &NONE, &[]);
    let watch = shared::ambient::Stopwatch::start();
    assert!(tcf(&text, &of_vendor(7)));
    let took = watch.elapsed();
    eprintln!("{} bytes: {took:?}", text.len());
    assert!(took.as_millis() < 500);
}
