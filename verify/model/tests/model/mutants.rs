//! Mutants: the protocol with one broken rule. The model must find the violation.
use libtest_mimic::{Failed, Trial};
use seckill_model::deletion::{DeletionRule, ENDS, JUSTIFIED};
use seckill_model::identity::{self, ONE_SALE};
use seckill_model::property::*;
use seckill_model::workers::{READER, ROWS};
use seckill_model::{
    Configuration, Deletions, Identities, IdentityConfig, IdentityRule, Protocol, Rule, TierPlan, Workers,
};
use seckill_protocol::index::SaleState::{Closed, Open, Suspended};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::configurations::{FREED_NAME, IDENTITY, ONE_IS_KEPT};
use crate::explore::{SizedModel, explore, trial, with_commas};

/// A name, a configuration that breaks a rule, and the property that is violated then.
type Mutant = (&'static str, Configuration, &'static str);

const RECOVERY: Configuration = Configuration {
    barriers: 1,
    redis_losses: 1,
    copies: 0,
    ..Configuration::SMALL
};
const CANCELS: Configuration = Configuration {
    cancels: 1,
    keys: 2,
    buyers: 1,
    ..RECOVERY
};
const END: Configuration = Configuration {
    desired_states: &[Closed],
    refusals: true,
    ..RECOVERY
};
/// A buyer with two orders and a unit that is left.
const SEVERAL_ORDERS: Configuration = Configuration {
    total: 3,
    buyers: 1,
    keys: 2,
    limit: 3,
    ..RECOVERY
};

/// Two units, of which one is kept for a tier until its release.
const TIERS: Configuration = Configuration {
    total: 2,
    tiers: Some(ONE_IS_KEPT),
    barriers: 0,
    redis_losses: 0,
    ..RECOVERY
};

pub const MUTANTS: &[Mutant] = &[
    (
        "answer_before_publishing",
        Configuration {
            broken: &[Rule::AnswerAfterPublishing],
            ..RECOVERY
        },
        PROMISE,
    ),
    (
        "answer_before_read_back",
        Configuration {
            broken: &[Rule::AnswerAfterReadBack],
            ..RECOVERY
        },
        PROMISE,
    ),
    (
        "replay_without_read_back",
        Configuration {
            broken: &[Rule::ReplayAfterReadBack],
            ..RECOVERY
        },
        PROMISE,
    ),
    (
        "void_answered_as_failed",
        Configuration {
            copies: 1,
            refusals: true,
            broken: &[Rule::VoidIsNotFailed],
            ..RECOVERY
        },
        REFUSAL,
    ),
    (
        "state_before_replay",
        Configuration {
            broken: &[Rule::ReplayBeforeState],
            ..END
        },
        REFUSAL,
    ),
    (
        "refusal_without_cur",
        Configuration {
            apis: 2,
            split_brain: true,
            refusals: true,
            broken: &[Rule::RefusalOfTheCurrentEpoch],
            ..RECOVERY
        },
        REFUSAL,
    ),
    (
        "ended_from_two_snapshots",
        Configuration {
            mysql_losses: 1,
            broken: &[Rule::EndedFromOneSnapshot],
            ..END
        },
        REFUSAL,
    ),
    (
        "keys_kept_before_close",
        Configuration {
            keys_kept: true,
            broken: &[Rule::KeysKeptAfterClose],
            ..END
        },
        REFUSAL,
    ),
    (
        "keys_from_two_snapshots",
        Configuration {
            keys_kept: true,
            mysql_losses: 1,
            broken: &[Rule::KeysFromOneSnapshot],
            ..END
        },
        REFUSAL,
    ),
    (
        "barrier_ignored",
        Configuration {
            broken: &[Rule::BarrierEndsEpoch],
            ..RECOVERY
        },
        OVERSOLD,
    ),
    (
        "close_not_final",
        Configuration {
            broken: &[Rule::CloseIsFinal],
            ..END
        },
        CLOSED,
    ),
    (
        "duplicates_by_record",
        Configuration {
            batch: 2,
            pending: 2,
            total: 2,
            broken: &[Rule::DuplicatesByOrder],
            ..RECOVERY
        },
        OVERSOLD,
    ),
    (
        "duplicates_of_live_orders",
        Configuration {
            copies: 1,
            broken: &[Rule::DuplicatesOfEveryStatus],
            ..CANCELS
        },
        OVERSOLD,
    ),
    (
        "total_lowered",
        Configuration {
            totals: &[0],
            broken: &[Rule::TotalOnlyRises],
            ..RECOVERY
        },
        OVERSOLD,
    ),
    (
        "fence_by_script_cache",
        Configuration {
            copies: 1,
            redis_lags: true,
            total: 2,
            broken: &[Rule::PurchaseFence],
            ..RECOVERY
        },
        NUMBER,
    ),
    (
        "purchase_on_a_replica",
        Configuration {
            redis_lags: true,
            cancels: 1,
            refusals: true,
            barriers: 0,
            redis_losses: 0,
            broken: &[Rule::PurchaseRole],
            ..RECOVERY
        },
        REFUSAL,
    ),
    (
        "purchase_by_any_epoch",
        Configuration {
            apis: 2,
            split_brain: true,
            broken: &[Rule::PurchaseEpoch],
            ..RECOVERY
        },
        PROMISE,
    ),
    (
        "rebuild_trusts_redis",
        Configuration {
            redis_lags: true,
            broken: &[Rule::RebuildFromLog],
            ..RECOVERY
        },
        OVERSOLD,
    ),
    (
        "fold_of_the_ledger_only",
        Configuration {
            broken: &[Rule::FoldToTheBarrier],
            ..RECOVERY
        },
        OVERSOLD,
    ),
    (
        "rebuild_forgets_cancelled",
        Configuration {
            broken: &[Rule::RebuildKeepsCancelled],
            ..CANCELS
        },
        KEY,
    ),
    (
        "barrier_adopted",
        Configuration {
            copies: 1,
            coordinators: 2,
            total: 2,
            broken: &[Rule::OwnBarrier],
            ..RECOVERY
        },
        NUMBER,
    ),
    (
        "install_without_count",
        Configuration {
            redis_losses: 2,
            broken: &[Rule::InstallCountsHolders, Rule::InstallCountsOrders],
            ..RECOVERY
        },
        INDEX,
    ),
    (
        "written_order_by_order_without_count",
        Configuration {
            broken: &[Rule::BuyersWrittenWhole, Rule::InstallCountsOrders],
            ..SEVERAL_ORDERS
        },
        KEY,
    ),
    (
        "orders_of_another_snapshot",
        Configuration {
            mysql_losses: 1,
            broken: &[Rule::OrdersOfTheSnapshot],
            ..RECOVERY
        },
        OVERSOLD,
    ),
    // The worker tells the index later of a cancel that the rebuild missed, so the harm is transient.
    (
        "cancel_of_a_stored_order_missed",
        Configuration {
            broken: &[Rule::DeltaChangesStored],
            ..CANCELS
        },
        FOLD,
    ),
    (
        "install_retried",
        Configuration {
            copies: 1,
            redis_lags: true,
            coordinators: 2,
            redis_losses: 2,
            broken: &[Rule::InstallOnce],
            ..RECOVERY
        },
        NUMBER,
    ),
    // INSTALL deletes the counts, so a second one is refused by them too, unless there are no orders.
    (
        "install_retried_without_epoch",
        Configuration {
            copies: 1,
            coordinators: 2,
            log: 7,
            broken: &[Rule::InstallOnce, Rule::InstallNewerOnly, Rule::InstallCountsOrders],
            ..CANCELS
        },
        BALANCE,
    ),
    (
        "apply_older_terms",
        Configuration {
            coordinators: 2,
            desired_states: &[Suspended],
            broken: &[Rule::ApplyNewerOnly],
            ..RECOVERY
        },
        TAKEN_BACK,
    ),
    (
        "live_epoch_falls_unseen",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::LiveEpochOnlyRises, Rule::NeedSeesLiveEpoch],
            ..RECOVERY
        },
        STUCK,
    ),
    (
        "need_blind_to_barriers",
        Configuration {
            needless: true,
            broken: &[Rule::NeedSeesBarrier],
            ..RECOVERY
        },
        STUCK,
    ),
    (
        "need_blind_to_live_epoch",
        Configuration {
            broken: &[Rule::NeedSeesLiveEpoch],
            ..RECOVERY
        },
        STUCK,
    ),
    // The worker never empties the outbox, so the sale is never closed.
    (
        "ended_index_unpublished",
        Configuration {
            mysql_losses: 1,
            broken: &[Rule::NeedSeesLiveEpochAfterTheEnd],
            ..END
        },
        STUCK,
    ),
    (
        "adjustments_in_memory",
        Configuration {
            broken: &[Rule::AdjustmentsAreRows],
            ..CANCELS
        },
        BALANCE,
    ),
    (
        "adjustments_before_commit",
        Configuration {
            cancels: 1,
            broken: &[Rule::AdjustmentsAfterCommit],
            ..END
        },
        STUCK,
    ),
    (
        "adjustment_without_fence",
        Configuration {
            split_brain: true,
            flip_back: true,
            broken: &[Rule::AdjustmentFence],
            ..CANCELS
        },
        BALANCE,
    ),
    (
        "adjustment_on_an_older_index",
        Configuration {
            coordinators: 2,
            barriers: 2,
            log: 7,
            broken: &[Rule::AdjustmentWaitsForEpoch],
            ..CANCELS
        },
        BALANCE,
    ),
    (
        "return_by_seq_alone",
        Configuration {
            keys: 3,
            limit: 2,
            total: 2,
            cancels: 2,
            log: 7,
            broken: &[Rule::ReturnByEpochAndSeq],
            ..CANCELS
        },
        BALANCE,
    ),
    (
        "return_without_mark",
        Configuration {
            broken: &[Rule::ReturnMarks],
            ..CANCELS
        },
        BALANCE,
    ),
    (
        "cancelled_orders_not_counted",
        Configuration {
            orders_ever_max: 1,
            broken: &[Rule::CancelledOrdersCount],
            ..CANCELS
        },
        ORDERS,
    ),
    (
        "rebuild_counts_orders_anew",
        Configuration {
            total: 2,
            orders_ever_max: 1,
            broken: &[Rule::RebuildCountsOrders],
            ..RECOVERY
        },
        ORDERS,
    ),
    (
        "bound_of_the_caller",
        Configuration {
            total: 2,
            orders_ever_max: 1,
            broken: &[Rule::BoundInTheIndex],
            ..RECOVERY
        },
        ORDERS,
    ),
    (
        "limit_by_key",
        Configuration {
            total: 2,
            keys: 2,
            broken: &[Rule::LimitByBuyer],
            ..RECOVERY
        },
        LIMIT,
    ),
    (
        "limit_by_key_with_tiers",
        Configuration {
            keys: 2,
            broken: &[Rule::LimitByBuyer],
            ..TIERS
        },
        LIMIT,
    ),
    (
        "limit_of_another_tier",
        Configuration {
            keys: 2,
            broken: &[Rule::LimitOfTheTier],
            ..TIERS
        },
        LIMIT,
    ),
    (
        "opening_of_another_tier",
        Configuration {
            tiers: Some(TierPlan {
                opens_earlier: true,
                ..ONE_IS_KEPT
            }),
            broken: &[Rule::OpeningOfTheTier],
            ..TIERS
        },
        OPENING,
    ),
    (
        "reserve_ignored",
        Configuration {
            broken: &[Rule::ReserveKeeps],
            ..TIERS
        },
        RESERVE,
    ),
    (
        "reserve_of_general_buyers_ignored",
        Configuration {
            tiers: Some(TierPlan {
                reserved: 0,
                reserved_for_general: 1,
                opens_earlier: true,
                ..ONE_IS_KEPT
            }),
            broken: &[Rule::ReserveKeeps],
            ..TIERS
        },
        RESERVE,
    ),
    (
        "release_ignored",
        Configuration {
            broken: &[Rule::ReleaseEndsReserve],
            ..TIERS
        },
        AVAILABLE,
    ),
    (
        "tier_of_the_token_published",
        Configuration {
            copies: 1,
            broken: &[Rule::TierOfTheHolding],
            ..TIERS
        },
        CONTENT,
    ),
    (
        "quantity_of_the_request_published",
        Configuration {
            quantities: &[1, 2],
            limit: 2,
            copies: 1,
            broken: &[Rule::QuantityOfTheHolding],
            ..TIERS
        },
        CONTENT,
    ),
    (
        "taken_stays_at_a_purchase",
        Configuration {
            broken: &[Rule::PurchaseRaisesTaken],
            ..TIERS
        },
        TAKEN,
    ),
    (
        "taken_kept_on_return",
        Configuration {
            keys: 2,
            cancels: 1,
            broken: &[Rule::ReturnLowersTaken],
            ..TIERS
        },
        RESERVE,
    ),
    (
        "taken_lost_in_a_rebuild",
        Configuration {
            barriers: 1,
            redis_losses: 1,
            broken: &[Rule::RebuildCountsTaken],
            ..TIERS
        },
        TAKEN,
    ),
    (
        "rebuild_forgets_tiers_of_orders",
        Configuration {
            barriers: 1,
            redis_losses: 1,
            broken: &[Rule::RebuildKeepsTier],
            ..TIERS
        },
        INDEX,
    ),
    (
        "tiers_lost_in_a_rebuild",
        Configuration {
            barriers: 1,
            redis_losses: 1,
            log: 6,
            broken: &[Rule::InstallHasTiers],
            ..TIERS
        },
        RESERVE,
    ),
    (
        "adjustments_in_any_order",
        Configuration {
            total: 2,
            buyers: 2,
            keys: 1,
            cancels: 2,
            broken: &[Rule::AdjustmentsInOrder],
            ..CANCELS
        },
        ADJUSTED,
    ),
    (
        "cancel_without_effect_leaves_no_row",
        Configuration {
            keys: 1,
            cancels: 2,
            broken: &[Rule::EveryCancelIsARow],
            ..CANCELS
        },
        REACHED,
    ),
    (
        "published_before_the_terms",
        Configuration {
            desired_states: &[Suspended],
            coordinators: 2,
            barriers: 2,
            broken: &[Rule::TermsBeforePublication],
            ..RECOVERY
        },
        TAKEN_BACK,
    ),
    (
        "published_though_terms_missed",
        Configuration {
            desired_states: &[Suspended],
            needless: true,
            split_brain: true,
            broken: &[Rule::TermsReachTheIndex],
            ..RECOVERY
        },
        TAKEN_BACK,
    ),
    (
        "terms_not_renumbered",
        Configuration {
            desired_states: &[Suspended, Open],
            mysql_losses: 1,
            redis_losses: 0,
            broken: &[Rule::TermsOutnumberTheIndex],
            ..RECOVERY
        },
        TERMS,
    ),
    (
        "settled_with_pending_adjustments",
        Configuration {
            cancels: 1,
            redis_losses: 0,
            broken: &[Rule::SettledWithoutPendingAdjustments],
            ..END
        },
        SETTLEMENT,
    ),
    (
        "settled_without_in_flight",
        Configuration {
            mysql_losses: 1,
            broken: &[Rule::SettledWithInFlight],
            ..END
        },
        SETTLEMENT,
    ),
    (
        "settled_as_of_now",
        Configuration {
            cancels: 1,
            redis_losses: 0,
            broken: &[Rule::SettledAsOfClose],
            ..END
        },
        SETTLEMENT,
    ),
];

const WORKERS: &[Mutant] = &[
    (
        "worker_without_position",
        Configuration {
            log: 5,
            broken: &[Rule::PositionCompared],
            ..Configuration::SMALL
        },
        ROWS,
    ),
    (
        "reader_starts_torn",
        Configuration {
            log: 5,
            broken: &[Rule::StartFromOneSnapshot],
            ..Configuration::SMALL
        },
        READER,
    ),
];

/// Rules without which the model finds no violation, at the sizes that it reaches.
const NOT_NEEDED_HERE: &[(&str, Configuration)] = &[
    // A batch names an epoch only after its barrier was read, so no batch is ahead of the current epoch. The rule stays:
    // "equal" is the shorter rule, and it also holds for a log with foreign records.
    (
        "epoch_at_least",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            split_brain: true,
            coordinators_reach_old: true,
            broken: &[Rule::EpochEquals],
            ..RECOVERY
        },
    ),
    // An index of an older epoch over a newer one sells void orders until R0 observes it. The rule stays: without it the
    // sale would stop until then, and a retried INSTALL would do harm (install_retried_without_epoch).
    (
        "install_without_epoch",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::InstallNewerOnly],
            ..RECOVERY
        },
    ),
    // A call that wrote too little has written too few buyers, because each buyer is in one call. The rule stays: it finds a
    // coordinator that does not keep to that (written_order_by_order_without_count).
    (
        "install_without_count_of_orders",
        Configuration {
            redis_losses: 2,
            broken: &[Rule::InstallCountsOrders],
            ..SEVERAL_ORDERS
        },
    ),
    // INSTALL refuses, so the sale stays stopped.
    (
        "written_order_by_order",
        Configuration {
            redis_losses: 2,
            broken: &[Rule::BuyersWrittenWhole],
            ..SEVERAL_ORDERS
        },
    ),
    // Purchases under an older epoch are refused or void, and R0 observes that the newer epoch is not published. The rule
    // stays: R0 needs a second for that.
    (
        "live_epoch_falls",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::LiveEpochOnlyRises],
            ..RECOVERY
        },
    ),
    // Orders that come after CLOSE are void, and their numbers were given to nobody. The rule stays: their buyers wait for
    // an answer.
    (
        "close_with_outbox",
        Configuration {
            coordinators: 2,
            refusals: true,
            broken: &[Rule::CloseAfterOutbox],
            ..END
        },
    ),
];

/// Rules of the end of a sale whose FlashSale goes away.
const DELETIONS: &[(&str, Deletions, &str)] = &[
    (
        "absence_is_a_deletion",
        without(DeletionRule::AbsenceIsNoDeletion),
        JUSTIFIED,
    ),
    (
        "event_without_live_answer",
        without(DeletionRule::LiveAnswer),
        JUSTIFIED,
    ),
    ("any_cluster_ends_a_sale", without(DeletionRule::OwnCluster), JUSTIFIED),
    ("grace_in_memory", without(DeletionRule::GraceInRow), ENDS),
    (
        "no_brake",
        Deletions {
            sales: 2,
            deletions: 2,
            ..without(DeletionRule::Brake)
        },
        JUSTIFIED,
    ),
];

const fn without(rule: DeletionRule) -> Deletions {
    Deletions {
        broken: Some(rule),
        ..Deletions::SMALL
    }
}

/// Mutants of the small model of a sale's identity.
const IDENTITIES: &[(&str, IdentityConfig, &str)] = &[
    (
        "row_inserted_before_catching_up",
        IdentityConfig {
            broken: Some(IdentityRule::InsertAfterCatchingUp),
            ..IDENTITY
        },
        identity::PROMISE,
    ),
    (
        "barrier_without_identity",
        IdentityConfig {
            broken: Some(IdentityRule::IdentityBeforeBarrier),
            ..IDENTITY
        },
        identity::PROMISE,
    ),
    (
        "unknown_sale_skipped",
        IdentityConfig {
            without_identity: true,
            broken: Some(IdentityRule::UnknownSaleStops),
            ..IDENTITY
        },
        ONE_SALE,
    ),
    (
        "identity_of_a_missing_row_ignored",
        IdentityConfig {
            broken: Some(IdentityRule::IdentityInserts),
            ..IDENTITY
        },
        identity::PROMISE,
    ),
    (
        "close_without_identity",
        IdentityConfig {
            broken: Some(IdentityRule::IdentityBeforeClose),
            ..FREED_NAME
        },
        identity::PROMISE,
    ),
    (
        "name_of_a_sale_that_sold_used_again",
        IdentityConfig {
            broken: Some(IdentityRule::OnlyUnofferedFreesName),
            log: 10,
            losses: 0,
            ..FREED_NAME
        },
        ONE_SALE,
    ),
    (
        "freed_name_not_taken_by_an_identity",
        IdentityConfig {
            broken: Some(IdentityRule::IdentityTakesFreedName),
            ..FREED_NAME
        },
        identity::PROMISE,
    ),
    (
        "row_of_a_freed_name_removed",
        IdentityConfig {
            broken: Some(IdentityRule::FreedRowStays),
            ..FREED_NAME
        },
        identity::PROMISE,
    ),
    (
        "epoch_begun_beside_another_sale_of_the_name",
        IdentityConfig {
            operators: 2,
            broken: Some(IdentityRule::OtherSaleOfNameRefuses),
            ..IDENTITY
        },
        ONE_SALE,
    ),
];

pub fn trials() -> Vec<Trial> {
    let of_the_protocol = |(name, configuration, property): &'static Mutant| {
        let test = move || {
            let model = Protocol::new(configuration.clone()).checking_only(property);
            check_refuted(name, model, property)
        };
        trial(format!("mutant_{name}"), test)
    };
    let of_workers = |(name, configuration, property): &'static Mutant| {
        let test = move || {
            let config = configuration.clone();
            check_refuted(name, Workers { config }, property)
        };
        trial(format!("mutant_{name}"), test)
    };
    let of_deletions = |(name, model, property): &'static (&str, Deletions, &str)| {
        trial(format!("mutant_{name}"), move || check_refuted(name, *model, property))
    };
    let of_identities = |(name, config, property): &'static (&str, IdentityConfig, &'static str)| {
        let test = move || check_refuted(name, Identities { config: config.clone() }, property);
        trial(format!("mutant_{name}"), test)
    };
    let survivors = |(name, configuration): &'static (&str, Configuration)| {
        trial(format!("not_needed_{name}"), move || {
            check_survives(name, configuration)
        })
    };
    MUTANTS
        .iter()
        .map(of_the_protocol)
        .chain(WORKERS.iter().map(of_workers))
        .chain(DELETIONS.iter().map(of_deletions))
        .chain(IDENTITIES.iter().map(of_identities))
        .chain(NOT_NEEDED_HERE.iter().map(survivors))
        .collect()
}

/// No property is violated without the rule. If that changes, the rule belongs to the other table.
fn check_survives(name: &str, configuration: &Configuration) -> Result<(), Failed> {
    let size = configuration.to_string();
    let checker = Protocol::new(configuration.clone()).checker();
    let (checker, seconds) = explore(checker.finish_when(HasDiscoveries::AnyFailures));
    let states = with_commas(checker.unique_state_count());
    for property in checker.model().properties() {
        if property.expectation == Expectation::Always && checker.discovery(property.name).is_some() {
            return Err(format!("refuted: {}; move it to MUTANTS", property.name).into());
        }
    }
    println!("{name}: not needed: {size}: {states} states, {seconds:.1} s");
    Ok(())
}

/// The model must find a violation of the property.
pub fn check_refuted<M: SizedModel>(name: &str, model: M, property: &'static str) -> Result<(), Failed> {
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures);
    let (checker, seconds) = explore(checker);
    let states = with_commas(checker.unique_state_count());
    let Some(path) = checker.discovery(property) else {
        return Err(format!("survived: {states} states, {seconds:.1} s").into());
    };
    let steps = path.into_actions().len();
    println!("{name}: refuted in {steps} steps: {property} ({states} states, {seconds:.1} s)");
    Ok(())
}
