//! The protocol with all its rules, in several configurations.
use libtest_mimic::Trial;
use seckill_model::{Configuration, Deletions, Identities, IdentityConfig, Protocol, TierPlan, Workers};
use seckill_protocol::index::SaleState::{Closed, Open, Suspended};

use crate::explore::{check_all_states, trial};

/// Redis is lost, and several coordinators rebuild it.
const RECOVERY: Configuration = Configuration {
    coordinators: 2,
    barriers: 2,
    redis_losses: 2,
    split_brain: true,
    log: 7,
    refusals: true,
    ..Configuration::SMALL
};

const CANCELS: Configuration = Configuration {
    buyers: 2,
    keys: 2,
    barriers: 1,
    redis_losses: 1,
    split_brain: true,
    cancels: 1,
    log: 6,
    ..Configuration::SMALL
};

const TOTALS: Configuration = Configuration {
    barriers: 1,
    redis_losses: 1,
    split_brain: true,
    totals: &[2],
    log: 6,
    ..Configuration::SMALL
};

const END: Configuration = Configuration {
    barriers: 1,
    redis_losses: 1,
    split_brain: true,
    desired_states: &[Closed],
    refusals: true,
    log: 6,
    ..Configuration::SMALL
};

const MYSQL: Configuration = Configuration {
    barriers: 1,
    redis_losses: 1,
    mysql_losses: 1,
    split_brain: true,
    log: 6,
    ..Configuration::SMALL
};

/// Two units, of which one is kept for a tier.
const TIERS: Configuration = Configuration {
    total: 2,
    tiers: Some(ONE_IS_KEPT),
    copies: 0,
    log: 5,
    ..Configuration::SMALL
};

/// Redis is lost, and the only unit is kept for a tier.
const TIERS_RECOVERY: Configuration = Configuration {
    total: 1,
    barriers: 1,
    redis_losses: 1,
    log: 6,
    ..TIERS
};

pub const ONE_IS_KEPT: TierPlan = TierPlan {
    reserved: 1,
    reserved_for_general: 0,
    limit: 2,
    opens_earlier: false,
};

pub const ALL: &[(&str, Configuration)] = &[
    (
        "two_apis_two_coordinators",
        Configuration {
            apis: 2,
            redis_losses: 1,
            log: 6,
            ..RECOVERY
        },
    ),
    ("two_coordinators_two_losses", RECOVERY),
    // The limit keeps each buyer from the second unit, also after a rebuild and a cancel.
    ("limit_of_a_buyer", Configuration { total: 2, ..CANCELS }),
    (
        "lagging_replica",
        Configuration {
            total: 2,
            redis_lags: true,
            barriers: 1,
            log: 6,
            copies: 0,
            ..RECOVERY
        },
    ),
    (
        "two_keys",
        Configuration {
            apis: 2,
            coordinators: 1,
            barriers: 1,
            redis_losses: 1,
            total: 2,
            keys: 2,
            copies: 0,
            log: 6,
            ..RECOVERY
        },
    ),
    (
        "both_sides_and_flip_back",
        Configuration {
            coordinators_reach_old: true,
            flip_back: true,
            redis_losses: 1,
            copies: 0,
            ..RECOVERY
        },
    ),
    (
        "needless_rebuilds",
        Configuration {
            needless: true,
            redis_losses: 1,
            ..RECOVERY
        },
    ),
    (
        "batches_of_two",
        Configuration {
            batch: 2,
            pending: 2,
            total: 2,
            buyers: 3,
            coordinators: 1,
            barriers: 1,
            redis_losses: 1,
            log: 6,
            ..RECOVERY
        },
    ),
    (
        "cancels",
        Configuration {
            flip_back: true,
            ..CANCELS
        },
    ),
    (
        "extended_cancels_two_coordinators",
        Configuration {
            buyers: 1,
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            copies: 0,
            ..CANCELS
        },
    ),
    (
        "cancels_lagging_replica",
        Configuration {
            redis_lags: true,
            refusals: true,
            keys: 1,
            ..CANCELS
        },
    ),
    (
        "cancels_twice",
        Configuration {
            cancels: 2,
            buyers: 1,
            copies: 0,
            ..CANCELS
        },
    ),
    (
        "cancels_mysql",
        Configuration {
            buyers: 1,
            mysql_losses: 1,
            copies: 0,
            ..CANCELS
        },
    ),
    (
        "orders_ever",
        Configuration {
            buyers: 1,
            keys: 3,
            orders_ever_max: 2,
            cancels: 2,
            copies: 0,
            log: 7,
            ..CANCELS
        },
    ),
    (
        "orders_ever_two_buyers",
        Configuration {
            orders_ever_max: 2,
            cancels: 2,
            barriers: 0,
            redis_losses: 0,
            log: 7,
            ..CANCELS
        },
    ),
    (
        "cancels_and_totals",
        Configuration {
            keys: 1,
            cancels: 2,
            totals: &[2],
            redis_losses: 0,
            needless: true,
            copies: 0,
            log: 7,
            ..CANCELS
        },
    ),
    ("totals", TOTALS),
    (
        "totals_twice",
        Configuration {
            totals: &[2, 3],
            buyers: 3,
            copies: 0,
            ..TOTALS
        },
    ),
    (
        "totals_mysql",
        Configuration {
            mysql_losses: 1,
            copies: 0,
            ..TOTALS
        },
    ),
    ("end", Configuration { total: 2, ..END }),
    (
        "end_with_keys_kept",
        Configuration {
            keys_kept: true,
            mysql_losses: 1,
            split_brain: false,
            ..END
        },
    ),
    (
        "end_cancels",
        Configuration {
            cancels: 1,
            copies: 0,
            ..END
        },
    ),
    (
        "end_mysql",
        Configuration {
            mysql_losses: 1,
            copies: 0,
            ..END
        },
    ),
    (
        "end_two_coordinators",
        Configuration {
            coordinators: 2,
            copies: 0,
            ..END
        },
    ),
    (
        "end_totals",
        Configuration {
            totals: &[2],
            copies: 0,
            ..END
        },
    ),
    (
        "end_cancels_mysql",
        Configuration {
            barriers: 0,
            redis_losses: 0,
            keys: 2,
            cancels: 1,
            buyers: 1,
            mysql_losses: 1,
            copies: 0,
            ..END
        },
    ),
    (
        "suspend_end_mysql",
        Configuration {
            barriers: 0,
            desired_states: &[Suspended, Open, Closed],
            buyers: 1,
            redis_losses: 0,
            mysql_losses: 1,
            copies: 0,
            ..END
        },
    ),
    (
        "suspend_two_coordinators",
        Configuration {
            desired_states: &[Suspended],
            coordinators: 2,
            barriers: 2,
            copies: 0,
            ..END
        },
    ),
    (
        "suspend_both_sides",
        Configuration {
            desired_states: &[Suspended],
            needless: true,
            coordinators_reach_old: true,
            flip_back: true,
            copies: 0,
            ..END
        },
    ),
    (
        "suspend",
        Configuration {
            desired_states: &[Suspended, Open],
            ..END
        },
    ),
    (
        "suspend_mysql",
        Configuration {
            desired_states: &[Suspended, Open],
            mysql_losses: 1,
            copies: 0,
            ..END
        },
    ),
    (
        "mysql",
        Configuration {
            coordinators: 2,
            barriers: 2,
            copies: 0,
            ..MYSQL
        },
    ),
    // Before the start, before the release, and after it.
    (
        "tiers",
        Configuration {
            tiers: Some(TierPlan {
                reserved_for_general: 1,
                opens_earlier: true,
                ..ONE_IS_KEPT
            }),
            keys: 2,
            apis: 2,
            copies: 1,
            refusals: true,
            log: 6,
            ..TIERS
        },
    ),
    // A key is used again by another tier, also in the same batch, and another process publishes the order again.
    (
        "tiers_retries",
        Configuration {
            apis: 2,
            pending: 2,
            batch: 2,
            copies: 1,
            log: 6,
            ..TIERS
        },
    ),
    (
        "tiers_quantities",
        Configuration {
            total: 3,
            limit: 2,
            quantities: &[1, 2],
            barriers: 1,
            redis_losses: 1,
            ..TIERS
        },
    ),
    (
        "tiers_cancels",
        Configuration {
            keys: 2,
            cancels: 2,
            log: 6,
            ..TIERS
        },
    ),
    (
        "tiers_rebuild",
        Configuration {
            barriers: 1,
            redis_losses: 1,
            apis: 2,
            log: 6,
            ..TIERS
        },
    ),
    (
        "tiers_rebuild_cancels",
        Configuration {
            tiers: Some(TierPlan {
                opens_earlier: true,
                ..ONE_IS_KEPT
            }),
            keys: 2,
            cancels: 1,
            split_brain: true,
            flip_back: true,
            ..TIERS_RECOVERY
        },
    ),
    (
        "tiers_two_coordinators",
        Configuration {
            coordinators: 2,
            barriers: 2,
            split_brain: true,
            needless: true,
            ..TIERS_RECOVERY
        },
    ),
    (
        "tiers_lagging_replica",
        Configuration {
            cancels: 1,
            redis_lags: true,
            refusals: true,
            split_brain: true,
            ..TIERS_RECOVERY
        },
    ),
    (
        "tiers_mysql",
        Configuration {
            mysql_losses: 1,
            cancels: 1,
            ..TIERS_RECOVERY
        },
    ),
    (
        "tiers_totals",
        Configuration {
            totals: &[2],
            ..TIERS_RECOVERY
        },
    ),
    (
        "quantities",
        Configuration {
            total: 3,
            limit: 2,
            quantities: &[1, 2],
            barriers: 1,
            redis_losses: 1,
            log: 6,
            copies: 0,
            ..Configuration::SMALL
        },
    ),
    (
        "extended_recovery",
        Configuration {
            apis: 2,
            copies: 0,
            ..RECOVERY
        },
    ),
    (
        "extended_lagging_replica",
        Configuration {
            redis_lags: true,
            copies: 0,
            ..RECOVERY
        },
    ),
    (
        "extended_both_sides_and_flip_back",
        Configuration {
            coordinators_reach_old: true,
            flip_back: true,
            copies: 0,
            ..RECOVERY
        },
    ),
    (
        "extended_batches_of_two",
        Configuration {
            batch: 2,
            pending: 2,
            total: 2,
            buyers: 3,
            barriers: 1,
            redis_losses: 2,
            log: 6,
            coordinators: 1,
            copies: 0,
            ..RECOVERY
        },
    ),
    (
        "extended_cancels",
        Configuration {
            coordinators: 2,
            barriers: 2,
            log: 7,
            flip_back: true,
            copies: 0,
            ..CANCELS
        },
    ),
    (
        "extended_cancels_twice",
        Configuration {
            total: 2,
            cancels: 2,
            log: 7,
            copies: 0,
            ..CANCELS
        },
    ),
    (
        "extended_totals",
        Configuration {
            coordinators: 2,
            barriers: 2,
            log: 7,
            copies: 0,
            ..TOTALS
        },
    ),
    (
        "extended_end_cancels_mysql",
        Configuration {
            cancels: 1,
            buyers: 1,
            keys: 2,
            mysql_losses: 1,
            copies: 0,
            ..END
        },
    ),
    (
        "extended_end_two_coordinators",
        Configuration {
            coordinators: 2,
            barriers: 2,
            cancels: 1,
            log: 7,
            copies: 0,
            ..END
        },
    ),
    (
        "extended_suspend_mysql",
        Configuration {
            desired_states: &[Suspended, Open, Closed],
            buyers: 1,
            mysql_losses: 1,
            copies: 0,
            ..END
        },
    ),
    (
        "extended_mysql",
        Configuration {
            coordinators: 2,
            barriers: 2,
            apis: 2,
            log: 7,
            copies: 0,
            ..MYSQL
        },
    ),
    (
        "extended_mysql_twice",
        Configuration {
            mysql_losses: 2,
            coordinators: 2,
            barriers: 2,
            copies: 0,
            log: 7,
            ..MYSQL
        },
    ),
    (
        "extended_tiers_rebuild",
        Configuration {
            barriers: 1,
            redis_losses: 1,
            split_brain: true,
            flip_back: true,
            apis: 2,
            log: 6,
            ..TIERS
        },
    ),
    (
        "extended_tiers_rebuild_cancels",
        Configuration {
            keys: 2,
            barriers: 1,
            redis_losses: 1,
            cancels: 1,
            log: 7,
            ..TIERS
        },
    ),
];

/// Two workers on one partition.
const WORKERS: Configuration = Configuration {
    log: 5,
    mysql_losses: 1,
    ..Configuration::SMALL
};

const ALL_WORKERS: &[(&str, Configuration)] = &[
    ("two_workers", WORKERS),
    ("extended_two_workers", Configuration { log: 6, ..WORKERS }),
];

/// FlashSales that go away.
const ALL_DELETIONS: &[(&str, Deletions)] = &[
    ("deletions", Deletions::SMALL),
    (
        "deletions_of_unclaimed_sales",
        Deletions {
            unclaimed: true,
            ..Deletions::SMALL
        },
    ),
    (
        "deletions_after_a_take_over",
        Deletions {
            take_over: true,
            ..Deletions::SMALL
        },
    ),
    (
        "mass_deletions",
        Deletions {
            sales: 2,
            deletions: 2,
            creations: 0,
            losses: 0,
            ..Deletions::SMALL
        },
    ),
    (
        "extended_mass_deletions",
        Deletions {
            sales: 2,
            deletions: 2,
            ..Deletions::SMALL
        },
    ),
];

/// MySQL loses the row of a sale.
pub const IDENTITY: IdentityConfig = IdentityConfig {
    operators: 1,
    log: 8,
    losses: 2,
    ends: false,
    without_identity: false,
    broken: None,
};

/// A sale is closed before it has offered a unit, and another one gets its name.
pub const FREED_NAME: IdentityConfig = IdentityConfig {
    ends: true,
    losses: 1,
    ..IDENTITY
};

const ALL_IDENTITIES: &[(&str, IdentityConfig)] = &[
    ("lost_row", IDENTITY),
    ("freed_name", FREED_NAME),
    (
        "freed_name_two_operators",
        IdentityConfig {
            operators: 2,
            log: 6,
            ..FREED_NAME
        },
    ),
    (
        "lost_row_two_operators",
        IdentityConfig {
            operators: 2,
            ..IDENTITY
        },
    ),
    (
        "lost_row_without_identity",
        IdentityConfig {
            operators: 2,
            without_identity: true,
            ..IDENTITY
        },
    ),
];

pub fn trials() -> Vec<Trial> {
    let protocol = ALL
        .iter()
        .map(|(name, config)| trial(*name, move || check_all_states(name, Protocol::new(config.clone()))));
    let workers = |(name, config): &'static (&str, Configuration)| {
        trial(*name, move || {
            check_all_states(name, Workers { config: config.clone() })
        })
    };
    let deletions = |(name, model): &'static (&str, Deletions)| trial(*name, move || check_all_states(name, *model));
    let identities = |(name, config): &'static (&str, IdentityConfig)| {
        trial(*name, move || {
            check_all_states(name, Identities { config: config.clone() })
        })
    };
    protocol
        .chain(ALL_WORKERS.iter().map(workers))
        .chain(ALL_DELETIONS.iter().map(deletions))
        .chain(ALL_IDENTITIES.iter().map(identities))
        .collect()
}
