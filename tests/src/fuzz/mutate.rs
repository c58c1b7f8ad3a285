//! Small changes to bytes.

use shared::random::{Random, below};

const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    16,
    0x7f,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes `bytes` in one to four places.
pub(super) fn mutate(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut dyn Random) {
    for _ in 0..=below(random, 4) {
        once(bytes, other, words, random);
    }
}

fn once(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut dyn Random) {
    let mut n = |bound: usize| below(random, bound as u64) as usize;
    let at = n(bytes.len() + 1);
    // Mostly short stretches.
    let length = [n(4), n(16), n(256)][n(3)];
    let stretch = at..(at + length).min(bytes.len());
    match n(11) {
        0 | 1 if at < bytes.len() => bytes[at] ^= 1 << n(8),
        2 if at < bytes.len() => bytes[at] = n(256) as u8,
        3 | 4 => {
            let number = NUMBERS[n(NUMBERS.len())].wrapping_add(n(3) as u64).wrapping_sub(1);
            let width = [1, 2, 4, 8][n(4)];
            let number = if n(4) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
            let number = if n(4) == 0 { &number[8 - width..] } else { &number[..width] };
            bytes.iter_mut().skip(at).zip(number).for_each(|(byte, with)| *byte = *with);
        }
        5 => drop(bytes.drain(stretch)),
        6 => {
            let again = bytes[stretch].to_vec();
            bytes.splice(at..at, again);
        }
        7 => bytes.truncate(at),
        8 => {
            let from = n(other.len() + 1);
            let piece = &other[from..(from + length).min(other.len())];
            bytes.splice(stretch, piece.iter().copied());
        }
        9 => {
            let noise: Vec<u8> = (0..length).map(|_| n(256) as u8).collect();
            bytes.splice(at..at, noise);
        }
        _ => {
            let word = words[n(words.len())].bytes();
            let over = (at + [0, word.len()][n(2)]).min(bytes.len());
            bytes.splice(at..over, word);
        }
    }
}
