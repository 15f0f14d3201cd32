use std::collections::BTreeMap;

use seckill_protocol::Seq;

/// A set of sequence numbers as ranges. Without gaps it is one range, so it needs little memory.
#[derive(Debug, Default)]
pub(crate) struct Seqs(BTreeMap<Seq, Seq>); // first -> last

impl Seqs {
    pub fn insert(&mut self, mut first: Seq, mut last: Seq) {
        // Merge each overlapping or adjacent range, starting with the one that begins last.
        while let Some((&f, &l)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if l.saturating_add(1) < first {
                break;
            }
            first = first.min(f);
            last = last.max(l);
            self.0.remove(&f);
        }
        self.0.insert(first, last);
    }

    pub fn contains(&self, seq: Seq) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, &last)| seq <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_ranges_merge_in_any_order() {
        let mut seqs = Seqs::default();
        for (first, last) in [(5, 6), (1, 2), (9, 9), (3, 4), (2, 5), (7, 8)] {
            seqs.insert(first, last);
        }
        assert_eq!(seqs.0, BTreeMap::from([(1, 9)]));
    }

    #[test]
    fn a_set_contains_exactly_the_inserted_numbers() {
        let mut seqs = Seqs::default();
        let mut plain = std::collections::BTreeSet::new();
        for i in 0..200u64 {
            let first = 1 + (i * 7919) % 1000;
            let last = first + i % 5;
            seqs.insert(first, last);
            plain.extend(first..=last);
        }
        for seq in 0..1100 {
            assert_eq!(seqs.contains(seq), plain.contains(&seq), "{seq}");
        }
        seqs.insert(1, 1100);
        assert_eq!(seqs.0, BTreeMap::from([(1, 1100)]));
        seqs.insert(Seq::MAX, Seq::MAX);
        assert!(seqs.contains(Seq::MAX) && !seqs.contains(1101));
    }
}
