//! Each rule of the protocol, broken: the model must see what the rule is for.
use libtest_mimic::{Failed, Trial};
use seckill_model::properties::*;
use seckill_model::workers::{READER, ROWS};
use seckill_model::{Configuration, Protocol, Rule, Workers};
use seckill_protocol::index::SaleState::{Closed, Open, Suspended};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::{World, explored, trial, with_commas};

/// A name, the rule, where it is broken, and the property that breaks with it.
type Mutant = (&'static str, Configuration, &'static str);

const R: Configuration = Configuration {
    barriers: 1,
    redis_losses: 1,
    copies: 0,
    ..Configuration::SMALL
};
const C: Configuration = Configuration {
    cancels: 1,
    keys: 2,
    buyers: 1,
    ..R
};
const E: Configuration = Configuration {
    wishes: &[Closed],
    refusals: true,
    ..R
};

pub const MUTANTS: &[Mutant] = &[
    (
        "answer_before_publishing",
        Configuration {
            broken: &[Rule::AnswerAfterPublishing],
            ..R
        },
        PROMISE,
    ),
    (
        "answer_before_read_back",
        Configuration {
            broken: &[Rule::AnswerAfterReadBack],
            ..R
        },
        PROMISE,
    ),
    (
        "replay_without_read_back",
        Configuration {
            broken: &[Rule::ReplayAfterReadBack],
            ..R
        },
        PROMISE,
    ),
    (
        "void_answered_as_failed",
        Configuration {
            copies: 1,
            refusals: true,
            broken: &[Rule::VoidIsNotFailed],
            ..R
        },
        REFUSAL,
    ),
    (
        "state_before_replay",
        Configuration {
            broken: &[Rule::ReplayBeforeState],
            ..E
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
            ..R
        },
        REFUSAL,
    ),
    (
        "ended_from_two_snapshots",
        Configuration {
            mysql_losses: 1,
            broken: &[Rule::EndedFromOneSnapshot],
            ..E
        },
        REFUSAL,
    ),
    (
        "barrier_ignored",
        Configuration {
            broken: &[Rule::BarrierEndsEpoch],
            ..R
        },
        OVERSOLD,
    ),
    (
        "close_not_final",
        Configuration {
            broken: &[Rule::CloseIsFinal],
            ..E
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
            ..R
        },
        OVERSOLD,
    ),
    (
        "duplicates_of_live_orders",
        Configuration {
            copies: 1,
            broken: &[Rule::DuplicatesOfEveryStatus],
            ..C
        },
        OVERSOLD,
    ),
    (
        "total_lowered",
        Configuration {
            totals: &[0],
            broken: &[Rule::TotalOnlyRises],
            ..R
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
            ..R
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
            ..R
        },
        REFUSAL,
    ),
    (
        "purchase_by_any_epoch",
        Configuration {
            apis: 2,
            split_brain: true,
            broken: &[Rule::PurchaseEpoch],
            ..R
        },
        PROMISE,
    ),
    (
        "rebuild_trusts_redis",
        Configuration {
            redis_lags: true,
            broken: &[Rule::RebuildFromLog],
            ..R
        },
        OVERSOLD,
    ),
    (
        "fold_of_the_ledger_only",
        Configuration {
            broken: &[Rule::FoldToTheBarrier],
            ..R
        },
        OVERSOLD,
    ),
    (
        "rebuild_forgets_cancelled",
        Configuration {
            broken: &[Rule::RebuildKeepsCancelled],
            ..C
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
            ..R
        },
        NUMBER,
    ),
    (
        "install_without_count",
        Configuration {
            redis_losses: 2,
            broken: &[Rule::InstallCountsHolders],
            ..R
        },
        INDEX,
    ),
    (
        "install_retried",
        Configuration {
            copies: 1,
            redis_lags: true,
            coordinators: 2,
            redis_losses: 2,
            broken: &[Rule::InstallOnce],
            ..R
        },
        NUMBER,
    ),
    (
        "install_retried_without_epoch",
        Configuration {
            copies: 1,
            coordinators: 2,
            log: 7,
            broken: &[Rule::InstallOnce, Rule::InstallNewerOnly],
            ..C
        },
        BALANCE,
    ),
    (
        "apply_older_terms",
        Configuration {
            coordinators: 2,
            wishes: &[Suspended],
            broken: &[Rule::ApplyNewerOnly],
            ..R
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
            ..R
        },
        STUCK,
    ),
    (
        "need_blind_to_barriers",
        Configuration {
            needless: true,
            broken: &[Rule::NeedSeesBarrier],
            ..R
        },
        STUCK,
    ),
    (
        "need_blind_to_live_epoch",
        Configuration {
            broken: &[Rule::NeedSeesLiveEpoch],
            ..R
        },
        STUCK,
    ),
    (
        "effects_in_memory",
        Configuration {
            broken: &[Rule::EffectsAreRows],
            ..C
        },
        BALANCE,
    ),
    (
        "effects_before_commit",
        Configuration {
            cancels: 1,
            broken: &[Rule::EffectsAfterCommit],
            ..E
        },
        STUCK,
    ),
    (
        "effect_without_fence",
        Configuration {
            split_brain: true,
            flip_back: true,
            broken: &[Rule::EffectFence],
            ..C
        },
        BALANCE,
    ),
    (
        "effect_on_an_older_index",
        Configuration {
            coordinators: 2,
            barriers: 2,
            log: 7,
            broken: &[Rule::EffectWaitsForEpoch],
            ..C
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
            ..C
        },
        BALANCE,
    ),
    (
        "return_without_mark",
        Configuration {
            broken: &[Rule::ReturnMarks],
            ..C
        },
        BALANCE,
    ),
    (
        "published_before_the_terms",
        Configuration {
            wishes: &[Suspended],
            coordinators: 2,
            barriers: 2,
            broken: &[Rule::TermsBeforePublication],
            ..R
        },
        TAKEN_BACK,
    ),
    (
        "published_though_terms_missed",
        Configuration {
            wishes: &[Suspended],
            needless: true,
            split_brain: true,
            broken: &[Rule::TermsReachTheIndex],
            ..R
        },
        TAKEN_BACK,
    ),
    (
        "terms_not_renumbered",
        Configuration {
            wishes: &[Suspended, Open],
            mysql_losses: 1,
            redis_losses: 0,
            broken: &[Rule::TermsOutnumberTheIndex],
            ..R
        },
        TERMS,
    ),
    (
        "settled_with_effects_owed",
        Configuration {
            cancels: 1,
            redis_losses: 0,
            broken: &[Rule::SettledWhenNothingIsOwed],
            ..E
        },
        SETTLEMENT,
    ),
    (
        "settled_without_in_flight",
        Configuration {
            mysql_losses: 1,
            broken: &[Rule::SettledWithInFlight],
            ..E
        },
        SETTLEMENT,
    ),
    (
        "settled_as_of_now",
        Configuration {
            cancels: 1,
            redis_losses: 0,
            broken: &[Rule::SettledAsOfClose],
            ..E
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

/// Rules that the model does not need, at the sizes that it reaches.
const NOT_NEEDED_HERE: &[(&str, Configuration)] = &[
    // A batch names an epoch only after its barrier was read, so none is ahead of `cur` when it lands. It stays: "equal"
    // is the shorter rule, and says the same of a log into which a wrong hand wrote.
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
            ..R
        },
    ),
    // An index of an older epoch over a newer one sells what is void, and R0 sees it. It stays: it spares buyers a sale
    // that stands still until then, and it is what makes a retried INSTALL harmless (install_retried_without_epoch).
    (
        "install_without_epoch",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::InstallNewerOnly],
            ..R
        },
    ),
    // Whoever is told of an older epoch is refreshed or void, and R0 sees that the newer one is not named. It stays: R0
    // needs a second to see it.
    (
        "live_epoch_falls",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::LiveEpochOnlyRises],
            ..R
        },
    ),
    // What CLOSE overtakes is void, and was promised to nobody. It stays: its buyers wait for an answer.
    (
        "close_with_outbox",
        Configuration {
            coordinators: 2,
            refusals: true,
            broken: &[Rule::CloseAfterOutbox],
            ..E
        },
    ),
];

pub fn trials() -> Vec<Trial> {
    let of_the_protocol = |(name, configuration, property): &'static Mutant| {
        let test = move || {
            let model = Protocol::new(configuration.clone()).looking_at(property);
            refuted(name, model, property)
        };
        trial(format!("mutant_{name}"), test)
    };
    let of_workers = |(name, configuration, property): &'static Mutant| {
        let test = move || {
            let rules = configuration.clone();
            refuted(name, Workers { rules }, property)
        };
        trial(format!("mutant_{name}"), test)
    };
    let survives = |(name, configuration): &'static (&str, Configuration)| {
        trial(format!("not_needed_{name}"), move || survives(name, configuration))
    };
    MUTANTS
        .iter()
        .map(of_the_protocol)
        .chain(WORKERS.iter().map(of_workers))
        .chain(NOT_NEEDED_HERE.iter().map(survives))
        .collect()
}

/// Nothing is wrong without the rule, so that the table above stays true.
fn survives(name: &str, configuration: &Configuration) -> Result<(), Failed> {
    let sizes = configuration.to_string();
    let checker = Protocol::new(configuration.clone()).checker();
    let (checker, seconds) = explored(checker.finish_when(HasDiscoveries::AnyFailures));
    let states = with_commas(checker.unique_state_count());
    for property in checker.model().properties() {
        if property.expectation == Expectation::Always && checker.discovery(property.name).is_some() {
            return Err(format!("it is refuted: {}; move it to MUTANTS", property.name).into());
        }
    }
    println!("{name}: not needed: {sizes}: {states} states, {seconds:.1} s");
    Ok(())
}

/// The model finds a way to break the property.
fn refuted<M: World>(name: &str, model: M, property: &'static str) -> Result<(), Failed> {
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures);
    let (checker, seconds) = explored(checker);
    let states = with_commas(checker.unique_state_count());
    let Some(path) = checker.discovery(property) else {
        return Err(format!("it survives: {states} states, {seconds:.1} s").into());
    };
    let steps = path.into_actions().len();
    println!("{name}: refuted in {steps} steps: {property} ({states} states, {seconds:.1} s)");
    Ok(())
}
