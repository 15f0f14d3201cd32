//! What was added last, in bounded memory.
use std::collections::HashMap;
use std::hash::Hash;

/// A map that forgets the older half of its entries when it is full. So no entry needs its age.
#[derive(Debug)]
pub struct RecentMap<K, V> {
    newer: HashMap<K, V>,
    older: HashMap<K, V>,
    max_len: usize,
}

impl<K: Hash + Eq, V> RecentMap<K, V> {
    pub fn bounded(max_len: usize) -> Self {
        RecentMap {
            newer: HashMap::new(),
            older: HashMap::new(),
            max_len,
        }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.newer.get(key).or_else(|| self.older.get(key))
    }

    /// Adds an entry, or makes it one of the newer ones.
    pub fn insert(&mut self, key: K, value: V) {
        if self.newer.len() >= self.max_len / 2 && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, value);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }

    /// The capacity of each half.
    #[cfg(test)]
    pub fn capacities(&self) -> [usize; 2] {
        [self.newer.capacity(), self.older.capacity()]
    }
}
