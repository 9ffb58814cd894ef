//! Messages between requests and upload sessions, and the session's state machine.

use pierhead::{
    platform::Timestamp,
    uploads::{
        Command, Refused, Reply,
        session::{State, apply},
    },
};
use proptest::{collection::vec, prelude::*};
use serde::{Serialize, de::DeserializeOwned};

use crate::{cases, mutate::mutated};

const COMMANDS: &[&str] = &[
    include_str!("../registry/golden/sessions/begin.json"),
    include_str!("../registry/golden/sessions/begin-anywhere.json"),
    include_str!("../registry/golden/sessions/first.json"),
    include_str!("../registry/golden/sessions/checkpoint.json"),
    include_str!("../registry/golden/sessions/release.json"),
    include_str!("../registry/golden/sessions/status.json"),
    include_str!("../registry/golden/sessions/commit.json"),
    include_str!("../registry/golden/sessions/commit-last-chunk.json"),
    include_str!("../registry/golden/sessions/finish.json"),
    include_str!("../registry/golden/sessions/close.json"),
    include_str!("../registry/golden/sessions/close-finished.json"),
];

const ANSWERS: &[&str] = &[
    include_str!("../registry/golden/sessions/reply.json"),
    include_str!("../registry/golden/sessions/reply-parts.json"),
    include_str!("../registry/golden/sessions/refused-unknown.json"),
    include_str!("../registry/golden/sessions/refused-out-of-order.json"),
    include_str!("../registry/golden/sessions/refused-storage.json"),
];

const STATES: &[&str] = &[
    include_str!("../registry/golden/sessions/state-open.json"),
    include_str!("../registry/golden/sessions/state-closed.json"),
];

/// What is read is written so that it is read as the same.
fn round_trips<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return true };
    serde_json::from_str::<T>(&serde_json::to_string(&value).unwrap()).is_ok_and(|again| again == value)
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn messages_round_trip(
        (command, answer, state) in (mutated(COMMANDS), mutated(ANSWERS), mutated(STATES)),
    ) {
        prop_assert!(round_trips::<Command>(&command));
        prop_assert!(round_trips::<Result<Reply, Refused>>(&answer));
        prop_assert!(round_trips::<State>(&state));
    }

    /// Whatever is commanded, the machine answers, never goes back behind its epoch, and never opens again.
    #[test]
    fn sessions_take_any_command(commands in vec((mutated(COMMANDS), 0u64..3_000_000_000_000), 1..12)) {
        let mut state: Option<State> = None;
        for (bytes, now) in commands {
            let Ok(command) = serde_json::from_slice::<Command>(&bytes) else { continue };
            let before = state.clone();
            let Ok(transition) = apply(before.clone(), &command, Timestamp(now)) else { continue };
            let after = &transition.state;
            if let Some(before) = before.filter(|before| now < before.upload().expires.0) {
                prop_assert_eq!(&after.upload().repository, &before.upload().repository);
                prop_assert!(after.upload().epoch >= before.upload().epoch);
                let reopens = matches!((&before, after), (State::Closed(_), State::Open(_)));
                prop_assert!(!reopens, "{command:?}");
            }
            state = Some(transition.state);
        }
    }
}
