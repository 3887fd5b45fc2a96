//! Several registers that transactions read and write at once.

use super::Object;
use crate::names::Names;

/// What a transaction does to one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    /// Reads the register of this number; `None` if nobody knows what.
    Read(u32, Option<i64>),
    /// Writes it.
    Write(u32, i64),
}

impl Access {
    /// The number of its register.
    pub(crate) fn register(&self) -> u32 {
        let (Self::Read(register, _) | Self::Write(register, _)) = self;
        *register
    }
}

/// So many registers, all 0 at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registers(pub(crate) usize);

impl Object for Registers {
    type State = Vec<i64>;
    /// What a transaction does, in its order.
    type Action = Vec<Access>;

    fn initial(&self) -> Vec<i64> {
        vec![0; self.0]
    }

    fn step(&self, state: &Vec<i64>, action: &Vec<Access>) -> Option<Vec<i64>> {
        let mut state = state.clone();
        self.apply(&mut state, action).then_some(state)
    }

    fn apply(&self, state: &mut Vec<i64>, action: &Vec<Access>) -> bool {
        action.iter().all(|access| match *access {
            Access::Read(register, found) => {
                found.is_none_or(|found| state[register as usize] == found)
            }
            Access::Write(register, value) => {
                state[register as usize] = value;
                true
            }
        })
    }

    fn bytes(&self, state: &Self::State) -> usize {
        size_of_val(&state[..])
    }

    fn is_observation(&self, action: &Vec<Access>) -> bool {
        action.iter().all(|access| matches!(access, Access::Read(..)))
    }

    fn describe(&self, action: &Vec<Access>, names: &Names) -> (String, String) {
        let asked = action.iter().map(|access| match *access {
            Access::Read(register, _) => format!("read {}", names.of(register)),
            Access::Write(register, value) => format!("write {} {value}", names.of(register)),
        });
        let found = action.iter().filter_map(|access| match *access {
            Access::Read(register, Some(found)) => Some(format!("{} {found}", names.of(register))),
            Access::Read(_, None) | Access::Write(..) => None,
        });
        (asked.collect::<Vec<_>>().join(", "), found.collect::<Vec<_>>().join(", "))
    }
}
