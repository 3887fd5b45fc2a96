//! The texts of values that are known by numbers.

use std::borrow::Cow;

/// Texts by number, one behind the other in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    text: String,
    /// Where each one ends.
    ends: Vec<usize>,
}

impl Names {
    /// Adds the text of the next number.
    pub(crate) fn push(&mut self, name: &str) {
        self.text.push_str(name);
        self.ends.push(self.text.len());
    }

    /// The text of a number; its digits if it has none.
    pub(crate) fn of(&self, number: u32) -> Cow<'_, str> {
        let number = number as usize;
        let Some(end) = self.ends.get(number) else { return format!("#{number}").into() };
        let begin = number.checked_sub(1).map_or(0, |last| self.ends[last]);
        self.text[begin..*end].into()
    }
}

impl<'n> FromIterator<&'n str> for Names {
    fn from_iter<I: IntoIterator<Item = &'n str>>(names: I) -> Self {
        let mut all = Self::default();
        names.into_iter().for_each(|name| all.push(name));
        all
    }
}
