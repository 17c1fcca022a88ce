//! Sockets and timers around the hub: the listeners, one task per connection, and the timer task.

pub mod clock;
pub mod connection;
mod greeting;
pub mod input;
pub mod listener;
pub mod listings;
mod long_answer;
pub mod pressure;
mod requests;
pub mod runtime;
pub mod timer;
pub mod turn;
pub mod watch;
mod writer;

pub use clock::Clock;
