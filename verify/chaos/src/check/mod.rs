//! The checker: the invariants of the protocol, which hold whatever failed. Each is a function of the evidence, and named
//! by its number in docs/chaos.md.
//!
//! - [`units`]: how many units are sold, left and refused
//! - [`orders`]: which order each buyer has
//! - [`members`]: what buyers with an identity may have
//! - [`window`]: when a sale may sell
//! - [`end`]: when a sale may end
//! - [`stores`]: MySQL and Redis against the log
//! - [`operation`]: recovery, memory, and whether the run itself was complete
mod end;
mod finding;
mod lookup;
mod members;
mod operation;
mod orders;
mod stores;
mod units;
mod window;

pub use finding::Finding;
pub use operation::RECOVERY_TIMEOUT;

use crate::evidence::Evidence;
use lookup::Lookup;

pub fn check(evidence: &Evidence) -> Vec<Finding> {
    let lookup = Lookup::new(evidence);
    vec![
        units::i1_never_more_sold_than_offered(evidence),
        orders::i2_every_number_is_stored(evidence, &lookup),
        units::i3_units_add_up_at_rest(evidence),
        units::i4_nobody_goes_without_while_units_are_left(evidence, &lookup),
        members::i5_no_buyer_has_more_than_the_limit(evidence, &lookup),
        orders::i6_same_key_same_order(evidence, &lookup),
        orders::i7_no_number_for_two_buyers(&lookup),
        window::i8_nothing_accepted_outside_the_window(evidence, &lookup),
        orders::i9_nothing_void_is_stored_or_answered(evidence, &lookup),
        orders::i10_cancelled_orders_stay_cancelled(evidence, &lookup),
        units::i11_sold_out_was_true(evidence, &lookup),
        stores::i12_mysql_and_redis_match_the_log(evidence),
        operation::i13_selling_and_storing_recover(evidence),
        operation::i14_what_clients_take_is_bounded(evidence, &lookup),
        end::i15_no_sale_ends_but_by_its_own_end(evidence, &lookup),
        members::i16_units_are_kept_until_their_release(evidence, &lookup),
        operation::every_buyer_is_answered(evidence),
        operation::every_fault_is_played(evidence),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
