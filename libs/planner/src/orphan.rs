//! What becomes of a sale whose FlashSale is missing. The ledger knows every sale, so no finalizer is needed.
//!
//! That a FlashSale is missing proves nothing: the cluster may be empty, or its etcd restored from an older backup. Such a
//! sale runs to its own end. Only a deletion that this leadership term has watched happen, and that a live answer of the API
//! server confirms, suspends the sale and, after a grace, ends it. A mass deletion is more often a mistake than a wish, so
//! a brake holds it back.
use std::collections::{BTreeMap, BTreeSet};

use seckill_protocol::SaleId;
use seckill_protocol::index::{Millis, SaleState};
use seckill_protocol::sale::Sale;

/// A FlashSale that is replaced is missing for a moment, and its sale continues.
pub const SUSPEND_AFTER: Millis = 5_000;
/// The brake compares the deletions of this time with the running sales.
pub const BRAKE_WINDOW: Millis = 60_000;
/// More deletions than these within the window, or than a fifth of the running sales, are a mass deletion. One never is.
const MAX_ORDINARY_DELETIONS: usize = 3;

/// The API server's live answer to the question for one FlashSale.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum LiveAnswer {
    /// It exists. `class` is `None` if it can't be read.
    Found { class: Option<String>, terminating: bool },
    /// 404 for this very object, not for its resource.
    NotFound,
    /// 403 after the deletion was seen: the right to ask may have gone with the namespace.
    ForbiddenAfterDeletion,
    /// Not asked, or any other refusal: it proves nothing.
    #[default]
    Inconclusive,
}

impl LiveAnswer {
    /// Whether the FlashSale of a sale is gone for certain. One of another class is another sale's.
    pub fn is_gone(&self, class: &str) -> bool {
        match self {
            LiveAnswer::Found { terminating: true, .. } => true,
            LiveAnswer::Found { class: found, .. } => found.as_ref().is_some_and(|found| found != class),
            LiveAnswer::NotFound | LiveAnswer::ForbiddenAfterDeletion => true,
            LiveAnswer::Inconclusive => false,
        }
    }
}

/// A running sale whose FlashSale is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingSale {
    pub sale: SaleId,
    /// This leadership term has seen the deletion happen.
    pub deletion_seen: bool,
    /// Its namespace is being deleted, or gone.
    pub namespace_ends: bool,
}

/// The deletions that a leadership term has seen, until the FlashSales are back or the sales have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SeenDeletions(BTreeMap<SaleId, SeenDeletion>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SeenDeletion {
    at: Millis,
    /// Nobody deletes a namespace in order to replace its sales.
    namespace_ends: bool,
    brake: Brake,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Brake {
    Free,
    Held,
    /// A person confirmed the mass deletion.
    Confirmed,
}

/// What a leadership term knows of the deletion of one FlashSale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Deletion {
    /// It is only missing.
    #[default]
    NotSeen,
    Seen {
        at: Millis,
    },
    /// Part of a mass deletion, which nobody has confirmed.
    HeldBack,
}

/// A mass deletion that is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MassDeletion {
    /// Names exactly these deletions: a person confirms them by it.
    pub token: String,
    pub sales: Vec<SaleId>,
}

impl SeenDeletions {
    /// `missing` are all running sales without a FlashSale, of `running` sales in all.
    pub fn update(&mut self, missing: &[MissingSale], running: usize, now: Millis) {
        let deleted: Vec<&MissingSale> = missing.iter().filter(|missing| missing.deletion_seen).collect();
        let still_deleted: BTreeSet<SaleId> = deleted.iter().map(|missing| missing.sale).collect();
        self.0.retain(|sale, _| still_deleted.contains(sale));
        for missing in deleted {
            let seen = self.0.entry(missing.sale).or_insert(SeenDeletion {
                at: now,
                namespace_ends: false,
                brake: Brake::Free,
            });
            if missing.namespace_ends {
                (seen.namespace_ends, seen.brake) = (true, Brake::Free);
            }
        }
        let counts = |seen: &SeenDeletion| {
            !seen.namespace_ends && seen.brake != Brake::Confirmed && now.saturating_sub(seen.at) < BRAKE_WINDOW
        };
        if self.0.values().filter(|seen| counts(seen)).count() > ordinary_deletions(running) {
            let recent = self.0.values_mut().filter(|seen| counts(seen));
            recent.for_each(|seen| seen.brake = Brake::Held);
        }
    }

    pub fn of(&self, sale: SaleId) -> Deletion {
        match self.0.get(&sale) {
            None => Deletion::NotSeen,
            Some(seen) if seen.brake == Brake::Held => Deletion::HeldBack,
            Some(seen) => Deletion::Seen { at: seen.at },
        }
    }

    pub fn held_back(&self) -> Option<MassDeletion> {
        let held = self.0.iter().filter(|(_, seen)| seen.brake == Brake::Held);
        let held: Vec<(SaleId, Millis)> = held.map(|(sale, seen)| (*sale, seen.at)).collect();
        (!held.is_empty()).then(|| MassDeletion {
            token: token(&held),
            sales: held.into_iter().map(|(sale, _)| sale).collect(),
        })
    }

    /// A person's word, by the token of the deletions that are held back now. False: it names others.
    pub fn confirm(&mut self, token: &str) -> bool {
        if self.held_back().is_none_or(|held| held.token != token) {
            return false;
        }
        let held = self.0.values_mut().filter(|seen| seen.brake == Brake::Held);
        held.for_each(|seen| seen.brake = Brake::Confirmed);
        true
    }
}

fn ordinary_deletions(running: usize) -> usize {
    (running / 5).clamp(1, MAX_ORDINARY_DELETIONS)
}

/// FNV-1a, 64 bits. The times make the token of a later deletion of the same sales another one.
fn token(deletions: &[(SaleId, Millis)]) -> String {
    let bytes = deletions
        .iter()
        .flat_map(|(sale, at)| sale.0.to_be_bytes().into_iter().chain(at.to_be_bytes()));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// What is known of the FlashSale of a sale that has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Absence {
    pub live: LiveAnswer,
    pub deletion: Deletion,
    /// From the confirmed deletion to the end of the sale.
    pub grace: Millis,
}

/// What becomes of a sale that has no FlashSale, and has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanFate {
    /// The FlashSale exists; the watch has not shown it yet.
    Exists,
    /// It runs on, to its own end.
    RunsOn,
    /// The deletion is confirmed. The row keeps that, so that another leader continues from there.
    RecordDeletion,
    Suspend,
    /// Suspended, until the FlashSale is back or the grace has passed.
    AwaitGrace,
    /// The deletion turned out to be part of a mass deletion.
    ForgetDeletion,
    End,
}

/// Whether a live answer can change the fate of a sale. The API server is not asked otherwise.
pub fn needs_live_answer(sale: &Sale, deletion: Deletion, now: Millis) -> bool {
    let is_due = matches!(deletion, Deletion::Seen { at } if now >= at.saturating_add(SUSPEND_AFTER));
    sale.state != SaleState::Closed && (is_due || sale.missing_since_ms.is_some() || now >= sale.closes_at)
}

/// `has_ended`: two clocks have reached the end of the sale.
pub fn fate(sale: &Sale, absence: &Absence, now: Millis, has_ended: bool) -> OrphanFate {
    let Absence { live, deletion, grace } = absence;
    let is_gone = live.is_gone(&sale.class);
    if !is_gone && matches!(live, LiveAnswer::Found { .. }) {
        return OrphanFate::Exists;
    }
    if has_ended {
        return OrphanFate::End;
    }
    match (sale.missing_since_ms, deletion) {
        (Some(_), Deletion::HeldBack) => OrphanFate::ForgetDeletion,
        (Some(since), _) if is_gone && now >= since.saturating_add(*grace) => OrphanFate::End,
        (Some(_), _) if is_gone && sale.state != SaleState::Suspended => OrphanFate::Suspend,
        (Some(_), _) => OrphanFate::AwaitGrace,
        (None, Deletion::Seen { at }) if is_gone && now >= at.saturating_add(SUSPEND_AFTER) => {
            OrphanFate::RecordDeletion
        }
        (None, _) => OrphanFate::RunsOn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::sale;
    use crate::sale::tests::{END, START};

    const GRACE: Millis = 300_000;

    /// By clocks that agree.
    fn fate_at(sale: &Sale, absence: &Absence, now: Millis) -> OrphanFate {
        fate(sale, absence, now, now >= sale.closes_at)
    }

    fn missing(sale: u32) -> MissingSale {
        MissingSale {
            sale: SaleId(sale),
            deletion_seen: true,
            namespace_ends: false,
        }
    }

    fn all_missing(count: u32) -> Vec<MissingSale> {
        (0..count).map(missing).collect()
    }

    fn held(deletions: &SeenDeletions) -> usize {
        deletions.held_back().map_or(0, |held| held.sales.len())
    }

    fn found(class: Option<&str>) -> LiveAnswer {
        LiveAnswer::Found {
            class: class.map(str::to_owned),
            terminating: false,
        }
    }

    fn absence(live: LiveAnswer, deletion: Deletion) -> Absence {
        Absence {
            live,
            deletion,
            grace: GRACE,
        }
    }

    #[test]
    fn only_a_certain_answer_confirms_a_deletion() {
        assert!(!found(Some("default")).is_gone("default"));
        assert!(!found(None).is_gone("default"));
        assert!(found(Some("other")).is_gone("default"));
        assert!(LiveAnswer::NotFound.is_gone("default"));
        assert!(LiveAnswer::ForbiddenAfterDeletion.is_gone("default"));
        assert!(!LiveAnswer::Inconclusive.is_gone("default"));
        let terminating = LiveAnswer::Found {
            class: Some("default".into()),
            terminating: true,
        };
        assert!(terminating.is_gone("default"));
    }

    #[test]
    fn a_missing_flash_sale_without_a_deletion_changes_nothing() {
        for live in [LiveAnswer::NotFound, LiveAnswer::Inconclusive] {
            let absence = absence(live, Deletion::NotSeen);
            assert_eq!(fate_at(&sale(), &absence, START), OrphanFate::RunsOn);
            assert_eq!(fate_at(&sale(), &absence, END - 1), OrphanFate::RunsOn);
            assert_eq!(fate_at(&sale(), &absence, END), OrphanFate::End);
        }
    }

    #[test]
    fn a_flash_sale_that_exists_keeps_its_sale_beyond_the_known_end() {
        let absence = absence(found(Some("default")), Deletion::Seen { at: START });
        assert_eq!(fate_at(&sale(), &absence, END), OrphanFate::Exists);
    }

    #[test]
    fn a_deletion_suspends_and_ends_after_the_grace() {
        let seen = |live| absence(live, Deletion::Seen { at: START });
        let gone = seen(LiveAnswer::NotFound);
        let mut sale = sale();
        sale.closes_at = START + 2 * GRACE;
        assert_eq!(fate_at(&sale, &gone, START + 4_999), OrphanFate::RunsOn);
        assert_eq!(
            fate_at(&sale, &seen(LiveAnswer::Inconclusive), START + 5_000),
            OrphanFate::RunsOn
        );
        assert_eq!(fate_at(&sale, &gone, START + 5_000), OrphanFate::RecordDeletion);
        sale.missing_since_ms = Some(START + 5_000);
        assert_eq!(fate_at(&sale, &gone, START + 5_000), OrphanFate::Suspend);
        sale.state = SaleState::Suspended;
        assert_eq!(fate_at(&sale, &gone, START + 5_000 + GRACE - 1), OrphanFate::AwaitGrace);
        assert_eq!(fate_at(&sale, &gone, START + 5_000 + GRACE), OrphanFate::End);
        let unconfirmed = seen(LiveAnswer::Inconclusive);
        assert_eq!(
            fate_at(&sale, &unconfirmed, START + 5_000 + GRACE),
            OrphanFate::AwaitGrace
        );
    }

    #[test]
    fn the_next_leader_continues_the_grace_of_the_row() {
        let mut sale = sale();
        (sale.closes_at, sale.missing_since_ms) = (START + 2 * GRACE, Some(START));
        let next_leader = absence(LiveAnswer::NotFound, Deletion::NotSeen);
        assert_eq!(fate_at(&sale, &next_leader, START), OrphanFate::Suspend);
        assert_eq!(fate_at(&sale, &next_leader, START + GRACE), OrphanFate::End);
    }

    #[test]
    fn a_deletion_that_is_held_back_is_taken_out_of_the_row() {
        let mut sale = sale();
        let held = absence(LiveAnswer::NotFound, Deletion::HeldBack);
        assert_eq!(fate_at(&sale, &held, END - 1), OrphanFate::RunsOn);
        sale.missing_since_ms = Some(START);
        assert_eq!(fate_at(&sale, &held, END - 1), OrphanFate::ForgetDeletion);
        assert_eq!(fate_at(&sale, &held, END), OrphanFate::End);
    }

    #[test]
    fn the_api_server_is_asked_only_when_its_answer_counts() {
        let mut sale = sale();
        let seen = Deletion::Seen { at: START };
        assert!(!needs_live_answer(&sale, Deletion::NotSeen, START));
        assert!(!needs_live_answer(&sale, seen, START + 4_999));
        assert!(needs_live_answer(&sale, seen, START + 5_000));
        assert!(needs_live_answer(&sale, Deletion::NotSeen, END));
        sale.missing_since_ms = Some(START);
        assert!(needs_live_answer(&sale, Deletion::NotSeen, START));
        sale.state = SaleState::Closed;
        assert!(!needs_live_answer(&sale, seen, END));
    }

    #[test]
    fn one_deletion_is_ordinary_and_many_are_held_back() {
        for (running, deleted, is_held) in [
            (1, 1, false),
            (2, 2, true),
            (9, 2, true),
            (10, 2, false),
            (100, 3, false),
            (100, 4, true),
        ] {
            let mut deletions = SeenDeletions::default();
            deletions.update(&all_missing(deleted), running, 0);
            let expected = if is_held { deleted as usize } else { 0 };
            assert_eq!(held(&deletions), expected, "{deleted} of {running}");
        }
    }

    #[test]
    fn a_deletion_counts_for_a_minute_and_stays_held_back() {
        let mut deletions = SeenDeletions::default();
        deletions.update(&[missing(1)], 5, 0);
        deletions.update(&[missing(1), missing(2)], 5, BRAKE_WINDOW);
        assert_eq!(held(&deletions), 0);
        deletions.update(&[missing(1), missing(2), missing(3)], 5, 2 * BRAKE_WINDOW - 1);
        assert_eq!(deletions.of(SaleId(1)), Deletion::Seen { at: 0 });
        assert_eq!(deletions.of(SaleId(2)), Deletion::HeldBack);
        deletions.update(&[missing(1), missing(2), missing(3)], 5, 9 * BRAKE_WINDOW);
        assert_eq!(held(&deletions), 2);
        // The FlashSales come back.
        deletions.update(&[], 5, 9 * BRAKE_WINDOW);
        assert_eq!(deletions, SeenDeletions::default());
    }

    #[test]
    fn sales_that_are_only_missing_are_no_deletions() {
        let mut only_missing = all_missing(9);
        only_missing.iter_mut().for_each(|m| m.deletion_seen = false);
        let mut deletions = SeenDeletions::default();
        deletions.update(&only_missing, 9, 0);
        assert_eq!(deletions, SeenDeletions::default());
        // They came back, and were lost in another way.
        deletions.update(&all_missing(9), 9, 1);
        deletions.update(&only_missing, 9, 2);
        assert_eq!(deletions, SeenDeletions::default());
    }

    #[test]
    fn the_sales_of_a_deleted_namespace_are_not_held_back() {
        let mut of_namespace = all_missing(9);
        of_namespace.iter_mut().for_each(|m| m.namespace_ends = true);
        let mut deletions = SeenDeletions::default();
        deletions.update(&of_namespace, 9, 0);
        assert_eq!(held(&deletions), 0);
        // The deletion of the namespace may be seen after those of the sales.
        let mut deletions = SeenDeletions::default();
        deletions.update(&all_missing(9), 9, 0);
        assert_eq!(held(&deletions), 9);
        deletions.update(&of_namespace, 9, 1);
        assert_eq!(held(&deletions), 0);
    }

    #[test]
    fn tokens_of_different_deletions_differ() {
        let all = (0..256).flat_map(|sale| (0..256).map(move |at| token(&[(SaleId(sale), at)])));
        assert_eq!(all.collect::<BTreeSet<String>>().len(), 256 * 256);
    }

    #[test]
    fn a_person_confirms_exactly_the_deletions_of_the_token() {
        let mut deletions = SeenDeletions::default();
        deletions.update(&all_missing(4), 4, 7);
        let token = deletions.held_back().expect("held back").token;
        deletions.update(&all_missing(5), 5, 8);
        assert!(!deletions.confirm(&token), "another deletion has joined");
        let token = deletions.held_back().expect("held back").token;
        assert!(!deletions.confirm(""));
        assert!(deletions.confirm(&token));
        assert_eq!(held(&deletions), 0);
        assert_eq!(deletions.of(SaleId(0)), Deletion::Seen { at: 7 });
        // They do not count against the next deletion.
        deletions.update(&all_missing(6), 5, 9);
        assert_eq!(held(&deletions), 0);
        assert!(!deletions.confirm(&token));
    }
}
