//! Scaling: the target number of workers of each function.
//!
//! Each plan computes a recommendation. Scale-up is immediate, but happens only once per `scale_up_cooldown`
//! (except for the first worker), and if it is based on the age of jobs, the workers of the last scale-up
//! must be there. Scale-down happens when no recommendation was higher for a whole `scale_down_after` time.

use super::super::desired::Function;
use super::fleet::{Fleet, FunctionCounts};
use super::{FunctionMemory, Queue, many, millis, seconds};

/// Number of intervals that `scale_down_after` is divided into. Of each, the highest recommendation is kept,
/// with the end of the interval as its time.
const PIECES: u64 = 60;

/// Sets the target of each function.
pub(super) fn set_targets(fleet: &mut Fleet<'_>) {
    let memory = &mut fleet.plan.memory;
    memory.functions.retain(|name, _| fleet.desired.functions.contains_key(name));
    for (name, function) in &fleet.desired.functions {
        let Some(counts) = fleet.function_counts.get_mut(name.as_str()) else { continue };
        let mut queue = fleet.observed.queues.get(name).copied().unwrap_or_default();
        if queue.is_paused {
            queue.waiting = 0;
        }
        let of_function = memory.functions.entry(name.clone()).or_default();
        let scale_down_after = millis(function.scale_down_after.unwrap_or(fleet.desired.scale_down_after));
        counts.target = Scaling { function, queue, counts, now: fleet.now, scale_down_after }.target(of_function);
    }
}

/// Input of the target of a function.
struct Scaling<'a> {
    function: &'a Function,
    queue: Queue,
    counts: &'a FunctionCounts,
    now: u64,
    scale_down_after: u64,
}

impl Scaling<'_> {
    fn target(&self, memory: &mut FunctionMemory) -> usize {
        let (min, max) = (self.function.min, self.function.max().max(self.function.min));
        let waiting_since = (self.queue.waiting > 0).then(|| memory.waiting_since_ms.unwrap_or(self.now));
        memory.waiting_since_ms = waiting_since;
        let base = memory.target.unwrap_or(self.counts.present).clamp(min, max);
        if memory.target.is_none() {
            self.remember(memory, base);
        }
        let (asked, reason) = self.recommendation(base, waiting_since);
        // More workers than the limit of running jobs would have no job.
        let useful = match usize::try_from(self.queue.max_running) {
            Ok(0) | Err(_) => max,
            Ok(most) => most.clamp(min, max),
        };
        let mut asked = asked.clamp(min, useful);
        let scale_up_cooldown = millis(self.function.scale_up_cooldown);
        if asked > base && memory.grown_ms.is_some_and(|grown| self.now.saturating_sub(grown) < scale_up_cooldown) {
            // The first worker is exempt from the cool-down.
            asked = base.max(asked.min(1));
        }
        self.remember(memory, asked);
        let highest = memory.recommendations.front().map_or(asked, |(_, highest)| *highest);
        let target = highest.clamp(min, max);
        self.explain(memory, target, base, reason);
        memory.target = Some(target);
        target
    }

    /// The recommended number of workers, and the reason if it is higher than before.
    fn recommendation(&self, base: usize, waiting_since: Option<u64>) -> (usize, String) {
        let waiting = self.queue.waiting;
        if waiting == 0 {
            let running = usize::try_from(self.queue.running).unwrap_or(usize::MAX);
            let busy = self.counts.busy.min(running);
            // Workers that run jobs of other functions cannot help now, and could not a moment ago either.
            let elsewhere = self.counts.occupied.saturating_sub(self.counts.busy);
            let needed = if busy == 0 { 0 } else { busy + elsewhere };
            return (needed.min(base), String::new());
        }
        let jobs = many(waiting, "job");
        let wait = if waiting == 1 { "waits" } else { "wait" };
        let mut asked = base;
        let mut reason = String::new();
        if base == 0 {
            asked = 1;
            reason = format!("{jobs} {wait} and there is no worker");
        }
        if let Some(each) = self.function.scale_up_queue.map(|each| each.max(1)) {
            let needed = usize::try_from(waiting.div_ceil(each)).unwrap_or(usize::MAX);
            if needed > asked {
                asked = needed;
                reason = format!("{jobs} {wait} for {}, more than {each} each", many(base as u64, "worker"));
            }
        }
        // Workers that were requested before are not there yet, or cannot be started: requesting more would
        // not help either.
        let are_there = base > 0 && self.counts.present >= base;
        let oldest = self.queue.oldest_ms.or(waiting_since.map(|since| self.now.saturating_sub(since))).unwrap_or(0);
        if let Some(age) = self.function.scale_up_age.map(millis)
            && oldest > age
            && are_there
        {
            let more = base.saturating_add(self.function.scale_up_step);
            if more > asked {
                asked = more;
                reason = format!("a job has waited for {}, longer than {}", seconds(oldest), seconds(age));
            }
        }
        let has_rule = self.function.scale_up_queue.is_some() || self.function.scale_up_age.is_some();
        if !has_rule && are_there && self.counts.occupied >= self.counts.present {
            asked = asked.max(base.saturating_add(1));
            let all = if base == 1 { "its worker is".to_owned() } else { format!("all {base} workers are") };
            reason = format!("{jobs} {wait} and {all} busy");
        }
        (asked, reason)
    }

    /// Adds a recommendation, and drops those that are too old or can never be the maximum again.
    fn remember(&self, memory: &mut FunctionMemory, asked: usize) {
        let kept = &mut memory.recommendations;
        // A recommendation under a higher maximum must not return when that maximum is restored.
        let max = self.function.max().max(self.function.min);
        let mut cut = None;
        while let Some((at, _)) = kept.pop_front_if(|(_, older)| *older > max) {
            cut = Some((at, max));
        }
        if let Some(cut) = cut
            && kept.front().is_none_or(|(_, highest)| *highest < max)
        {
            kept.push_front(cut);
        }
        let at = self.now.checked_next_multiple_of((self.scale_down_after / PIECES).max(1)).unwrap_or(self.now);
        while kept.back().is_some_and(|(_, older)| *older <= asked) {
            kept.pop_back();
        }
        if kept.back().is_none_or(|(last, _)| *last < at) {
            kept.push_back((at, asked));
        }
        while kept.len() > 1
            && kept.front().is_some_and(|(at, _)| self.now.saturating_sub(*at) >= self.scale_down_after)
        {
            kept.pop_front();
        }
    }

    fn explain(&self, memory: &mut FunctionMemory, target: usize, base: usize, reason: String) {
        let before = memory.target;
        if before.is_some_and(|before| target > before) || before.is_none() && target > base {
            memory.grown_ms = Some(self.now);
        }
        if before == Some(target) && !memory.why.is_empty() {
            return;
        }
        memory.why = if target > base && !reason.is_empty() {
            reason
        } else if before.is_some_and(|before| target < before) && target < self.function.max() {
            format!("lower demand for {}", seconds(self.scale_down_after))
        } else if target == self.function.min {
            format!("at least {target}")
        } else if target == self.function.max() {
            format!("at most {target}")
        } else {
            "unchanged".to_owned()
        };
    }
}
