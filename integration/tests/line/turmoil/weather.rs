//! How AWS tells what happens: lost, late and twice, of yesterday, in pieces, or not at all.
//!
//! It changes nothing of what is so. Invariant: whatever it does to one reading, it does not prove twice in a row what is
//! not so.

use std::time::Duration;

use fastrand::Rng;
use integration::aws::{Delivery, FakeAws, Fault, Operation};

/// Between two readings.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// How far copies of AWS are behind: not so far that two readings in a row know nothing of what is known, of tasks by events
/// and of services by a reading before.
const BEHIND_WITH_TASKS: Duration = Duration::from_millis(300);
const BEHIND_WITH_SERVICES: Duration = Duration::from_millis(850);

const READS: [Operation; 5] = [
    Operation::ListServices,
    Operation::DescribeServices,
    Operation::ListTasks,
    Operation::DescribeTasks,
    Operation::DescribeTaskDefinition,
];
const CALLS: [Operation; 2] = [Operation::ReceiveMessage, Operation::DeleteMessageBatch];

/// Other weather, until it changes again.
pub(super) fn change(dice: &mut Rng, aws: &FakeAws) {
    let faults = aws.faults();
    faults.clear();
    faults.limit_pages(dice.usize(3..12));
    aws.queue().deliver(Delivery {
        lost: dice.f64() * 0.6,
        doubled: dice.f64() * 0.5,
        late: Duration::from_millis(dice.u64(..500)),
        by_sns: dice.bool(),
    });
    let services = [Operation::ListServices, Operation::DescribeServices];
    let tasks = [Operation::ListTasks, Operation::DescribeTasks];
    let lists = [Operation::ListServices, Operation::ListTasks];
    let descriptions = [Operation::DescribeServices, Operation::DescribeTasks];
    match dice.u32(..9) {
        0 | 7 => {
            services.into_iter().for_each(|it| faults.set_for(it, Fault::Behind(BEHIND_WITH_SERVICES)));
            tasks.into_iter().for_each(|it| faults.set_for(it, Fault::Behind(BEHIND_WITH_TASKS)));
        }
        1 => lists.into_iter().for_each(|operation| faults.set_for(operation, Fault::Shuffled)),
        2 => lists.into_iter().for_each(|operation| faults.set_for(operation, Fault::Moving)),
        3 => descriptions
            .into_iter()
            .for_each(|operation| faults.set_for(operation, Fault::Failures("MISSING"))),
        4 => {
            descriptions.into_iter().for_each(|operation| faults.set_for(operation, Fault::Failures("BUSY")))
        }
        5 | 6 => {
            for operation in READS.into_iter().chain(CALLS).filter(|_| dice.u32(..3) == 0).collect::<Vec<_>>()
            {
                faults.set_for(operation, failure(dice));
            }
        }
        _ => {}
    }
}

fn failure(dice: &mut Rng) -> Fault {
    match dice.u32(..7) {
        0 => Fault::Throttle,
        1 => Fault::ServerError,
        2 => Fault::AccessDenied,
        3 => Fault::Garbage,
        4 => Fault::HalfPages,
        5 => Fault::Outage,
        _ => Fault::Delay(Duration::from_millis(300)),
    }
}
