//! Which cases there are.

use crate::cases;
use crate::end::Bed;

/// What succeeds, whatever the network loses: given to `$do`, behind what else it wants.
macro_rules! succeeding {
    ($do:ident! $($more:tt)*) => {
        $do! {
            $($more)*
            sends_of_all_sizes writes_of_all_sizes writes_with_immediate_data reads_of_all_sizes atomic_operations
            pieces_and_inline_data order_in_both_directions unsignaled_requests a_receive_that_is_late
        }
    };
}

/// What fails, and how: as above.
macro_rules! failing {
    ($do:ident! $($more:tt)*) => {
        $do! {
            $($more)*
            wrong_key_to_write wrong_key_to_read wrong_key_to_add wrong_key_to_swap beyond_the_end_to_write
            before_the_start_to_read a_region_that_is_read_only a_region_without_atomic_operations
            a_region_that_was_deregistered a_receive_that_is_too_short
            a_wrong_local_key a_read_into_memory_that_must_not_be_written flushes
        }
    };
}

/// Cases by name.
pub type Case = (&'static str, fn(&mut dyn Bed));

macro_rules! table {
    ($($case:ident)*) => {
        [$((stringify!($case), |bed| cases::$case(bed))),*]
    };
}

pub const SUCCEEDING: [Case; 9] = succeeding! { table! };
pub const FAILING: [Case; 13] = failing! { table! };
