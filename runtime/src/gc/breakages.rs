//! That the twenty invariants can fail: each test runs once more without a rule of the product (`twin!`, in unit tests a list per
//! thread), and must fail, at the assertion that is about the rule.
//!
//! A rule is missing on the thread of the test, and on those that it starts. Whatever else fails meanwhile (a `throw`, another test's
//! assertion) has another text, and does not count.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::twin::go_without;

/// Runs `test` without `rules`; it must panic with a text in which `saying` stands.
fn fails_without(rules: &'static [&'static str], test: fn(), saying: &str) {
    go_without(rules);
    let ended = catch_unwind(AssertUnwindSafe(test));
    go_without(&[]);
    let Err(panic) = ended else {
        panic!("holds without {rules:?}: the check is empty");
    };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    assert!(text.contains(saying), "failed, but said: {text}");
}

macro_rules! breakages {
    ($($name:ident: $test:ident without $rules:expr, saying $saying:literal;)*) => {
        $(
            #[test]
            fn $name() {
                fails_without(&$rules, $test, $saying);
            }
        )*
    };
}

breakages! {
    i01_can_fail: i01_a_context_has_at_most_one_runner without ["claim-by-store"], saying "left: 4";
    i02_can_fail: i02_publish_happens_after_context_save_and_owner_clear without ["attach-before-park"], saying "the other side has failed";
    i03_can_fail: i03_parker_touches_nothing_after_publish without ["attach-before-park"], saying "the other side has failed";
    i04_can_fail: i04_release_then_clear_then_publish without ["worker-kept-on-record"], saying "still on record";
    i05_can_fail: i05_one_worker_per_slot_and_one_container_per_worker without ["start-unasked", "store-instead-of-cas"], saying "a worker in no slot";
    i06_can_fail: i06_attach_loser_is_unreachable_and_exits without ["store-instead-of-cas"], saying "left: ";
    i07_can_fail: i07_slot_is_emptied_before_the_worker_may_block without ["wait-in-slot"], saying "waits in a slot";
    i08_can_fail: i08_slots_are_consumed_only_by_their_owner without ["first-slot"], saying "left: ";
    i09_can_fail: i09_an_attached_worker_is_never_runnable without ["wait-in-slot"], saying "is in a slot";
    i10_can_fail: i10_workers_run_only_with_blackening_on without ["run-unasked"], saying "in phase";
    i11_can_fail: i11_no_completion_while_a_worker_is_active without ["others-unasked"], saying "marking ended under";
    i12_can_fail: i12_the_cache_is_disposed_before_the_active_set_is_left without ["cache-kept"], saying "keeps";
    i13_can_fail: i13_each_transition_happens_once_per_cycle without ["phase-by-store"], saying "made twice";
    i14_can_fail: i14_barrier_is_on_everywhere_before_the_first_blackening without ["one-handshake"], saying "B has no barrier";
    i15_can_fail: i15_blackening_is_off_before_assists_stop without ["assist-unasked"], saying "made to pay";
    i16_can_fail: i16_resize_only_when_stopped without ["resize-running"], saying "Ok(";
    i17_can_fail: i17_a_retired_worker_exits_at_its_next_wake without ["attach-before-park"], saying "left: ";
    i18_can_fail: i18_no_cached_work_at_the_end_of_termination without ["cache-kept"], saying "gcw.is_empty()";
    i19_can_fail: i19_credit_is_conserved without ["credit-unasked"], saying "left: ";
    i20_can_fail: i20_budgets_return_to_their_start_value_at_cycle_end without ["budget-kept"], saying "keeps the budget";
}
