//! Texts as numbers. A record has a dozen texts, but few of those in a file differ.

use api::export::CELL;
use hashbrown::HashMap;

use super::records::Name;

/// The names of a count, as numbers: those of a cell; an account of a minute has none of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    /// The minute since 1970.
    pub(super) minute: i64,
    /// Those of [`CELL`].
    pub(super) cell: [Name; CELL.len()],
    /// What is counted of it.
    pub(super) what: Name,
}

/// The texts that were seen. The number 0 is the empty text.
#[derive(Clone, Debug)]
pub(super) struct Names {
    numbers: HashMap<Box<str>, Name>,
    texts: Vec<Box<str>>,
}

impl Default for Names {
    fn default() -> Self {
        Self { numbers: HashMap::from_iter([("".into(), 0)]), texts: vec!["".into()] }
    }
}

impl Names {
    /// The number of a text.
    pub(super) fn number(&mut self, text: &str) -> Name {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        // So many texts would not fit into memory.
        let number = Name::try_from(self.texts.len()).unwrap_or(Name::MAX);
        self.numbers.insert(text.into(), number);
        self.texts.push(text.into());
        number
    }

    /// The text of a number that was given out.
    pub(super) fn text(&self, name: Name) -> &str {
        self.texts.get(name as usize).map_or("", |text| text)
    }
}
