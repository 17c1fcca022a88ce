//! Sockets and timers around the hub: the listeners, one task per connection, and the timer task.

pub mod clock;
pub mod connection;
pub mod decoder;
mod dispatcher;
mod greeting;
pub mod listener;
pub mod listings;
mod long_answer;
pub mod pressure;
pub mod runtime;
pub mod timer;
pub mod turn;
pub mod watch;
mod writer;

pub use clock::Clock;
