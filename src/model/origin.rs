//! Where something was said: who described it, and the place of each single value.
//!
//! It holds no value that counts: what counts is in what it stands beside, and this is for people. Invariant: each key
//! is there once.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Where a description comes from. As text it is who described it: `ecs prod-a/payments`, `policy.yaml:12`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Origin {
    who: Arc<str>,
    said: Arc<[Said]>,
}

/// A value in words, and where they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Said {
    /// The key, in the words of a policy: `timeouts.request`.
    pub key: Arc<str>,
    /// The value, in the same words: `5s`.
    pub value: Arc<str>,
    /// Where: `tag service/payments`, `policy.yaml:12`.
    pub place: Arc<str>,
}

impl Said {
    /// A value in words, said at `place`.
    pub fn new(key: &str, value: impl Into<Arc<str>>, place: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), value: value.into(), place: place.into() }
    }
}

impl Origin {
    /// Who described something, and what was said where. Of several about one key the first counts.
    pub fn new(who: impl Into<Arc<str>>, said: impl IntoIterator<Item = Said>) -> Self {
        let mut said: Vec<_> = said.into_iter().collect();
        said.sort_by(|a, b| a.key.cmp(&b.key));
        said.dedup_by(|later, first| later.key == first.key);
        Self { who: who.into(), said: said.into() }
    }

    /// What was said about a key.
    pub fn of(&self, key: &str) -> Option<&Said> {
        let place = self.said.binary_search_by(|said| (*said.key).cmp(key)).ok()?;
        self.said.get(place)
    }

    /// Everything that was said, by key.
    pub fn said(&self) -> &[Said] {
        &self.said
    }

    /// The same with what `other` says about one key in place of the own word.
    #[must_use]
    pub fn with(&self, key: &str, other: &Self) -> Self {
        let own = self.said.iter().filter(|said| *said.key != *key);
        Self::new(Arc::clone(&self.who), own.chain(other.of(key)).cloned())
    }
}

impl Deref for Origin {
    type Target = str;

    fn deref(&self) -> &str {
        &self.who
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)
    }
}

impl<T: Into<Arc<str>>> From<T> for Origin {
    fn from(who: T) -> Self {
        Self { who: who.into(), said: Arc::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_about_a_key_counts() {
        let own = Origin::new("a", [Said::new("x", "1", "there"), Said::new("x", "2", "below")]);
        assert_eq!(own.of("x").map(|said| &*said.value), Some("1"));
        assert_eq!((own.of("y"), &*own), (None, "a"));
        let other = Origin::new("b", [Said::new("x", "3", "elsewhere"), Said::new("y", "4", "elsewhere")]);
        let with = own.with("y", &other);
        let said: Vec<_> = with.said().iter().map(|said| (&*said.key, &*said.value)).collect();
        assert_eq!((said, &*with), (vec![("x", "1"), ("y", "4")], "a"));
        assert_eq!(own.with("x", &Origin::from("c")).said(), []);
    }
}
