//! Decides whether an ad was viewable: a state machine for one impression of a display ad.
//!
//! The rule is that of the MRC Viewable Ad Impression Measurement Guidelines, version 2.0, for
//! display ads. Two tests must be passed in this order: "Pixel Requirement" (at least 50 % of the
//! pixels are on an in-focus browser tab, on the viewable space of the page), then "Time
//! Requirement" (for at least one continuous second, after the ad has rendered). Large ads (242 500
//! pixels or more) need 30 % of their pixels.
//!
//! The loader has the same rule for pages that allow no Wasm: `loader/viewability.ts`. The same
//! cases test both: `cases/viewability.json`.

/// The least share of pixels in view, in thousandths: 50 %.
pub const PER_MILLE_MIN: u16 = 500;
/// The least share of a large ad: 30 %.
pub const LARGE_PER_MILLE_MIN: u16 = 300;
/// The least area of a large ad, in square CSS pixels: that of 970 × 250.
pub const LARGE_AREA_PX: u32 = 242_500;
/// How long the pixels must be in view without interruption, in milliseconds.
pub const TIME_MS_MIN: u64 = 1_000;
/// The longest gap between two looks, in milliseconds. During a longer one (the computer slept, a
/// script blocked the page) nobody knows what was in view, so the time starts anew. Looks come
/// every 100 ms.
pub const GAP_MS_MAX: u64 = 500;

/// What one look at the ad shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Thousandths of the ad's pixels inside the viewport, rounded down: 500 is 50 % or more.
    pub per_mille: u16,
    /// The ad's area in square CSS pixels; 0: nothing is drawn.
    pub area_px: u32,
    /// Whether the tab is the one shown in its window.
    pub visible: bool,
    /// Whether the page has the focus.
    pub focused: bool,
}

impl Look {
    /// The pixel test of a single look.
    #[must_use]
    pub const fn passes(&self) -> bool {
        let least = if self.area_px >= LARGE_AREA_PX { LARGE_PER_MILLE_MIN } else { PER_MILLE_MIN };
        self.area_px > 0 && self.visible && self.focused && self.per_mille >= least
    }
}

/// Where an impression stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// The pixel test failed at the last look, or nobody has looked.
    #[default]
    Out,
    /// The pixel test has passed at every look since then; both times are in milliseconds.
    In { since_ms: u64, last_ms: u64 },
    /// Both tests have passed once, and nothing takes that back.
    Viewable,
}

/// The state machine of one impression, which starts when the ad has rendered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meter(State);

impl Meter {
    /// Takes a look; true when the ad has become viewable with this look, which happens once.
    ///
    /// Time counts from the first look that passed the pixel test, for nothing is known of before.
    /// It starts anew when the clock goes back, or after a gap of more than [`GAP_MS_MAX`].
    pub fn look(&mut self, now_ms: u64, look: Look) -> bool {
        let since_ms = match self.0 {
            State::Viewable => return false,
            _ if !look.passes() => {
                self.0 = State::Out;
                return false;
            }
            State::In { since_ms, last_ms }
                if now_ms.checked_sub(last_ms).is_some_and(|gap| gap <= GAP_MS_MAX) =>
            {
                since_ms
            }
            State::In { .. } | State::Out => now_ms,
        };
        let is_viewable = now_ms - since_ms >= TIME_MS_MIN;
        self.0 =
            if is_viewable { State::Viewable } else { State::In { since_ms, last_ms: now_ms } };
        is_viewable
    }

    /// Whether another look is wanted soon even if nothing changes, because the time test is
    /// running.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self.0, State::In { .. })
    }

    /// Whether it has become viewable.
    #[must_use]
    pub const fn is_viewable(&self) -> bool {
        matches!(self.0, State::Viewable)
    }
}

#[cfg(test)]
#[path = "viewability_tests.rs"]
mod tests;
