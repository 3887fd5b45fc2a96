//! The search for an order.
//!
//! Calls are taken one after the other, each only before everything that it completed before; a
//! call is *enabled* if it was invoked before the first completion among those that are not taken.
//! Where a configuration (who is taken, and the state) was already left without success, the search
//! turns back.
//!
//! - An enabled observation that is legal is taken at once, without a choice: it changes nothing, so
//!   every order with it later is one with it now.
//! - Calls that complete early come first, calls that nobody saw completed last, and of those the
//!   ones without effect never; of those that do the same the one that was invoked first.

use std::collections::{HashMap, HashSet};

use super::{Call, Object, PENDING};
use crate::budget::{Options, Steps};
use crate::decision::Decision;
use crate::linearizability::Window;

/// Looks for an order of `calls`, with the steps that `options` allow.
pub(crate) fn search<O: Object>(
    object: &O,
    calls: &[Call<O::Action>],
    options: &Options,
) -> Decision {
    Search::new(object, calls).run(options.steps(calls.len()))
}

struct Search<'a, O: Object> {
    object: &'a O,
    calls: &'a [Call<O::Action>],
    /// Places of the completed calls, by invocation.
    completed: Vec<usize>,
    /// Places of the pending ones that may have had an effect, by invocation.
    pending: Vec<usize>,
    /// For each of those: the number of the one before it that does the same. Where both may be taken it
    /// does not matter which is, so that one is taken first.
    twins: Vec<Option<u32>>,
    /// For each of `completed`: the earliest completion from there on.
    earliest: Vec<u32>,
}

/// Who is taken, and what that led to.
struct Configuration<S> {
    window: Window,
    /// Which of the pending calls are taken, in increasing order.
    pending: Vec<u32>,
    state: S,
}

/// A configuration on the way, and how to go on from it.
struct Frame<S> {
    configuration: Configuration<S>,
    /// Length of the order when it was reached.
    length: usize,
    /// What is still to be tried, the best last.
    choices: Vec<Choice>,
}

/// Where choices that are none lead to.
enum Forced<S> {
    /// To where there is a choice, or nothing left to take.
    Ahead(Frame<S>),
    /// To a call that is not legal.
    Nowhere,
    /// The steps are used up.
    Unknown,
}

#[derive(Clone, Copy)]
enum Choice {
    /// One of the completed calls.
    Completed(u32),
    /// One of the pending ones.
    Pending(u32),
}

impl<'a, O: Object> Search<'a, O> {
    fn new(object: &'a O, calls: &'a [Call<O::Action>]) -> Self {
        let mut completed: Vec<_> =
            (0..calls.len()).filter(|at| calls[*at].completed != PENDING).collect();
        completed.sort_by_key(|at| calls[*at].invoked);
        let is_open = |at: &usize| {
            calls[*at].completed == PENDING && !object.is_observation(&calls[*at].action)
        };
        let mut pending: Vec<_> = (0..calls.len()).filter(is_open).collect();
        pending.sort_by_key(|at| calls[*at].invoked);
        let mut last = HashMap::new();
        let twins = (0..).zip(&pending).map(|(number, at)| last.insert(&calls[*at].action, number));
        let twins = twins.collect();
        let mut earliest = vec![PENDING; completed.len() + 1];
        for (place, at) in completed.iter().enumerate().rev() {
            earliest[place] = earliest[place + 1].min(calls[*at].completed);
        }
        Self { object, calls, completed, pending, twins, earliest }
    }

    fn run(&self, mut steps: Steps) -> Decision {
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        let state = self.object.initial();
        let first = Configuration { window: Window::default(), pending: Vec::new(), state };
        let first = self.frame(first, &mut order);
        let mut stack = match self.forced(first, &mut order, &mut steps) {
            Forced::Ahead(frame) => vec![frame],
            Forced::Nowhere => return Decision::Violated(()),
            Forced::Unknown => return Decision::Unknown,
        };
        while let Some(frame) = stack.last_mut() {
            if self.is_all(&frame.configuration) {
                return Decision::Holds(Some(order));
            }
            order.truncate(frame.length);
            let Some(choice) = frame.choices.pop() else {
                stack.pop();
                continue;
            };
            let Some(next) = self.take(&frame.configuration, choice) else { continue };
            if !steps.take() {
                return Decision::Unknown;
            }
            order.push(self.place(choice));
            let frame = self.frame(next, &mut order);
            let frame = match self.forced(frame, &mut order, &mut steps) {
                Forced::Ahead(frame) => frame,
                Forced::Nowhere => continue,
                Forced::Unknown => return Decision::Unknown,
            };
            let Configuration { window, pending, state } = &frame.configuration;
            if seen.insert((window.clone(), pending.clone(), state.clone())) {
                // Once in the memory, and once to come back to it.
                steps.keep(2 * self.bytes(&frame.configuration));
                stack.push(frame);
            }
        }
        Decision::Violated(())
    }

    /// Goes on while there is one choice only: nothing of that need be kept.
    fn forced(
        &self,
        mut frame: Frame<O::State>,
        order: &mut Vec<usize>,
        steps: &mut Steps,
    ) -> Forced<O::State> {
        while let [Choice::Completed(number)] = frame.choices[..] {
            if !steps.take() {
                return Forced::Unknown;
            }
            let mut next = frame.configuration;
            let place = self.completed[number as usize];
            if !self.object.apply(&mut next.state, &self.calls[place].action) {
                return Forced::Nowhere;
            }
            next.window = next.window.with(number);
            order.push(place);
            frame = self.frame(next, order);
        }
        Forced::Ahead(frame)
    }

    fn bytes(&self, configuration: &Configuration<O::State>) -> usize {
        let Configuration { window, pending, state } = configuration;
        let lists = size_of_val(window.behind()) + size_of_val(&pending[..]);
        size_of::<Configuration<O::State>>() + lists + self.object.bytes(state)
    }

    fn is_all(&self, configuration: &Configuration<O::State>) -> bool {
        let count = u32::try_from(self.completed.len()).expect("positions are 32 bits wide");
        configuration.window.is_full(count)
    }

    fn place(&self, choice: Choice) -> usize {
        match choice {
            Choice::Completed(number) => self.completed[number as usize],
            Choice::Pending(number) => self.pending[number as usize],
        }
    }

    /// Takes all observations that are legal, and finds out what may come next.
    fn frame(
        &self,
        mut configuration: Configuration<O::State>,
        order: &mut Vec<usize>,
    ) -> Frame<O::State> {
        let mut enabled = self.enabled(&configuration.window);
        while let Some(number) = enabled.iter().find(|number| {
            let action = &self.calls[self.completed[**number as usize]].action;
            self.object.is_observation(action)
                && self.object.step(&configuration.state, action).is_some()
        }) {
            order.push(self.completed[*number as usize]);
            configuration.window = configuration.window.with(*number);
            enabled = self.enabled(&configuration.window);
        }
        let horizon = self.horizon(&configuration.window);
        enabled.sort_by_key(|number| {
            std::cmp::Reverse(self.calls[self.completed[*number as usize]].completed)
        });
        let open = (0_u32..).zip(&self.pending).filter(|(number, place)| {
            let is_taken = |number: &u32| configuration.pending.binary_search(number).is_ok();
            self.calls[**place].invoked < horizon
                && !is_taken(number)
                && self.twins[*number as usize].is_none_or(|twin| is_taken(&twin))
        });
        let mut choices: Vec<_> = open.map(|(number, _)| Choice::Pending(number)).collect();
        choices.extend(enabled.into_iter().map(Choice::Completed));
        Frame { configuration, length: order.len(), choices }
    }

    /// The completed calls that may come next.
    fn enabled(&self, window: &Window) -> Vec<u32> {
        let horizon = self.horizon(window);
        let beyond = (window.frontier()..).zip(&self.completed[window.frontier() as usize..]);
        let beyond = beyond.take_while(|(_, place)| self.calls[**place].invoked < horizon);
        window.behind().iter().copied().chain(beyond.map(|(number, _)| number)).collect()
    }

    /// The earliest completion among the completed calls that are not taken.
    fn horizon(&self, window: &Window) -> u32 {
        let behind = window.behind().iter();
        let behind = behind.map(|number| self.calls[self.completed[*number as usize]].completed);
        behind.fold(self.earliest[window.frontier() as usize], u32::min)
    }

    fn take(
        &self,
        from: &Configuration<O::State>,
        choice: Choice,
    ) -> Option<Configuration<O::State>> {
        let state = self.object.step(&from.state, &self.calls[self.place(choice)].action)?;
        let (window, pending) = (from.window.clone(), from.pending.clone());
        Some(match choice {
            Choice::Completed(number) => {
                Configuration { window: window.with(number), pending, state }
            }
            Choice::Pending(number) => {
                let mut pending = pending;
                let at = pending.partition_point(|taken| *taken < number);
                pending.insert(at, number);
                Configuration { window, pending, state }
            }
        })
    }
}
