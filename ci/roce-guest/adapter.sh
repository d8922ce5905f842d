#!/bin/sh
# In the guest: the suites of verbs and of the rail, through libibverbs, between two devices of the kernel. What they leave out with
# words is what Soft-RoCE does in another way than adapters: rdma-sim/tests/judge_soft/main.rs has the reasons.
. /job/wire.sh
wire_of_two || exit 1
export TEST_ADAPTER=$LEFT,$RIGHT
export TEST_ADAPTER_DIFFERS=a_receive_that_is_too_short,a_wrong_local_key,flushes
adapter --test-threads 1 --nocapture verbs:: || exit 1
# They look at each step of a transfer, which takes half of the time of all.
adapter --test-threads 1 rail:: --skip a_peer_that_closes_in_transfer_is_gone --skip a_send_in_transfer_is_cancelled \
    --skip answers_nobody_asked_for_are_survived --skip operations_end_when_the_owner_goes
