//! Randomness as an argument.

/// A source of random bytes.
///
/// What a production rim hands in is the operating system's ([`crate::ambient::SystemRandom`]);
/// simulations hand in a [`Seeded`] one.
pub trait Random: Send {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// A number in `0..bound`, without bias worth naming (below `bound / 2^64`); 0 when `bound` is 0.
pub fn below(random: &mut dyn Random, bound: u64) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    let wide = u128::from(u64::from_le_bytes(bytes)) * u128::from(bound);
    u64::try_from(wide >> 64).expect("a product of two u64 has its upper half in a u64")
}

/// The same bytes for the same seed, on every machine: for simulations and load generators, never
/// for keys.
pub struct Seeded(blake3::OutputReader);

impl Seeded {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("countersign seeded random v1");
        hasher.update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}
