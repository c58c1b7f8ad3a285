//! Decisions in steps: when a rim does something for the core, that changes only who did it. And
//! however long it takes, a decision is made once.

use ed25519_dalek::{Signer as _, SigningKey};
use edge::{
    Decision, Effect, Method, Outcome, Policy, Request, Resume, State, Step, decide, handle,
};
use shared::id::IdAllocator;
use shared::random::Seeded;
use shared::token::{SIGNATURE_BYTES, TAG_BYTES, Unverified};
use shared::{ImpressionId, PlacementId, Random, Timestamp};

use crate::cases;
use crate::support::{NOW, World};

/// What an edge remembers, and how many ids it gave.
#[derive(Default)]
struct Memory {
    ids: IdAllocator,
    given: u32,
}

impl State for Memory {
    fn next_id(&mut self, now: Timestamp, random: &mut dyn Random) -> Option<ImpressionId> {
        self.given += 1;
        Some(self.ids.next(now, random))
    }
}

/// A signature by a holder of the key other than the core.
fn elsewhere(world: &World, effect: &Effect) -> Outcome {
    let Effect::Sign { key, bytes } = effect;
    let found = world.store.issuers.iter().find(|own| own.public.id == *key).unwrap();
    Outcome::Signature(SigningKey::from_bytes(found.secret.expose()).sign(bytes).to_bytes())
}

fn serve<'p>(placement: &str, policy: &'p Policy, memory: &mut Memory, seed: u64) -> Step<'p> {
    let query = format!("placement={placement}&consent=1");
    let request = Request { query: &query, ..Request::new(Method::Get, "/v1/serve") };
    decide(&request, policy, memory, NOW, &mut Seeded::new(seed))
}

fn needs(step: Step<'_>) -> (Effect, Resume<'_>) {
    match step {
        Step::Need(effect, resume) => (effect, resume),
        Step::Done(decision) => panic!("{decision:?}"),
    }
}

fn done(step: Step<'_>) -> Decision {
    match step {
        Step::Done(decision) => decision,
        Step::Need(effect, _) => panic!("{effect:?}"),
    }
}

/// The placement and id in the token of the one event, and its signature. Both seals are good.
fn issued(decision: &Decision, policy: &Policy) -> (PlacementId, ImpressionId) {
    let [event] = &*decision.events else { panic!("{decision:?}") };
    let keyring = policy.keys.keyring();
    let unverified = Unverified::read(&event.token, keyring.deployment()).unwrap();
    let (token, _) = unverified.verify(keyring, NOW).unwrap();
    unverified.check_tag(policy.keys.own(token.key).unwrap().tags(), NOW).unwrap();
    (token.placement.id(), token.id)
}

#[test]
fn every_case_is_decided_the_same_whoever_signs_and_only_ads_wait() {
    let world = World::new();
    let mut waited = 0;
    for (_, case) in cases::all() {
        let policy = case.policy.policy(&world);
        let signed = case.decide_by(&world, &policy, &|step| match step {
            Step::Done(decision) => {
                let is_ad = decision.events.iter().any(|event| event.kind == shared::Kind::Served);
                assert!(!is_ad, "{}: who signed?", case.about);
                decision
            }
            Step::Need(effect, resume) => done(resume.with(elsewhere(&world, &effect))),
        });
        assert_eq!(signed, case.decide(&world, &policy), "{}", case.about);
        waited += usize::from(signed.iter().any(|decision| {
            decision.events.iter().any(|event| event.kind == shared::Kind::Served)
        }));
    }
    assert!(waited >= 10, "only {waited} cases give out an ad");
}

#[test]
fn two_placements_wait_at_the_same_time_and_each_id_is_taken_once() {
    let world = World::new();
    let policy = world.policy();
    let mut memory = Memory::default();
    let (top, resume_top) = needs(serve("top", &policy, &mut memory, 1));
    let (side, resume_side) = needs(serve("side", &policy, &mut memory, 2));
    assert_ne!(top, side);
    assert_eq!(memory.given, 2);
    // The later request gets its signature first, and for the other the platform does not sign at
    // all.
    let side = done(resume_side.with(elsewhere(&world, &side)));
    let top = done(resume_top.with(Outcome::None));
    assert_eq!(memory.given, 2, "a decision was made again");
    let ((at_top, first), (at_side, second)) = (issued(&top, &policy), issued(&side, &policy));
    assert_eq!((at_top, at_side), (PlacementId::literal("top"), PlacementId::literal("side")));
    assert_ne!(first, second);
    assert_eq!((top.reply.status, side.reply.status), (200, 200));
}

#[test]
fn without_a_signature_from_elsewhere_the_core_makes_the_same_itself() {
    let world = World::new();
    let policy = world.policy();
    let step = || needs(serve("top", &policy, &mut Memory::default(), 1));
    let (effect, resume) = step();
    let failed = done(resume.with(Outcome::None));
    assert_eq!(failed, done(step().1.with(elsewhere(&world, &effect))));
    let query = "placement=top&consent=1";
    let request = Request { query, ..Request::new(Method::Get, "/v1/serve") };
    let alone = handle(&request, &policy, &mut Memory::default(), NOW, &mut Seeded::new(1));
    assert_eq!(failed, alone);
}

#[test]
fn the_signature_that_comes_from_elsewhere_is_the_token_s() {
    let world = World::new();
    let policy = world.policy();
    let (effect, resume) = needs(serve("top", &policy, &mut Memory::default(), 1));
    let Outcome::Signature(mut signature) = elsewhere(&world, &effect) else {
        panic!("{effect:?}")
    };
    signature[0] ^= 1;
    let decision = done(resume.with(Outcome::Signature(signature)));
    let token = &decision.events[0].token;
    let (rest, _) = token.split_last_chunk::<TAG_BYTES>().unwrap();
    assert_eq!(rest.last_chunk::<SIGNATURE_BYTES>(), Some(&signature));
}
