//! A round of questions: foreground jobs over one connection, and their answers.
//!
//! When the round is over the connection is closed, and with it the jobs end that nobody took: a worker that hangs does
//! not find a hundred questions when it comes back.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::client::address::ServerAddress;
use crate::client::answer::{Answer, WorkEvent};
use crate::client::connection::{self, Connection, ConnectionError};
use crate::protocol::packet::PacketType;

/// While more than this is on its way, the next questions wait, in bytes.
const UNSENT_MAX: usize = 1 << 18;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) function: String,
    /// Questions of the same function and unique id are one for the server. An empty one is never the same.
    pub(super) unique: &'static str,
    pub(super) workload: Vec<u8>,
}

/// The answer, or why there is none.
pub(super) type Answered = Result<Bytes, String>;

/// Asks all of them; each answer stands where its question did.
///
/// # Errors
/// When there is no connection. One that is lost leaves the answers that had come.
pub(super) async fn ask_all(
    server: &ServerAddress,
    connect_timeout: Duration,
    questions: &[Question],
    limit: Duration,
) -> Result<Vec<Answered>, ConnectionError> {
    let end = Instant::now() + limit;
    let stream = connection::open(server, connect_timeout.min(limit)).await?;
    let mut round = Round {
        connection: Connection::new(stream),
        created: VecDeque::new(),
        asked: HashMap::new(),
        answers: vec![None; questions.len()],
        open: questions.len(),
    };
    let missing = match timeout_at(end, round.run(questions)).await {
        Ok(Ok(())) => "no answer".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", limit.as_secs_f64()),
    };
    Ok(round.answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(missing.clone()))).collect())
}

struct Round {
    connection: Connection,
    /// Questions whose handle is not known yet, in the order in which they were sent.
    created: VecDeque<usize>,
    asked: HashMap<Bytes, usize>,
    answers: Vec<Option<Answered>>,
    open: usize,
}

impl Round {
    async fn run(&mut self, questions: &[Question]) -> Result<(), ConnectionError> {
        let mut next = 0;
        while self.open > 0 {
            while let Some(question) = questions.get(next).filter(|_| self.connection.unsent() < UNSENT_MAX) {
                let arguments = [question.function.as_bytes(), question.unique.as_bytes(), &question.workload];
                self.connection.request(PacketType::SubmitJobHigh, &arguments)?;
                self.created.push_back(next);
                next += 1;
            }
            // Not `receive`, which sends all before it returns: the next questions must not wait for answers.
            match self.connection.try_receive()? {
                Some(answer) => self.take(answer),
                None => self.connection.turn().await?,
            }
        }
        Ok(())
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::JobCreated(handle) => {
                if let Some(index) = self.created.pop_front() {
                    self.asked.insert(handle, index);
                }
            }
            Answer::Error { code, text } => {
                if let Some(index) = self.created.pop_front() {
                    self.end(index, Err(format!("the server says {code}: {text}")));
                }
            }
            Answer::Work { handle, event } => {
                let answer = match event {
                    WorkEvent::Complete(result) => Ok(result),
                    WorkEvent::Fail => Err("the job failed".to_owned()),
                    WorkEvent::Exception(_) => Err("the job failed with an exception".to_owned()),
                    WorkEvent::Data(_) | WorkEvent::Warning(_) | WorkEvent::Status(..) => return,
                };
                if let Some(index) = self.asked.remove(&handle) {
                    self.end(index, answer);
                }
            }
            Answer::Noop | Answer::NoJob | Answer::JobAssign(_) | Answer::OptionRes | Answer::EchoRes => {}
        }
    }

    fn end(&mut self, index: usize, answer: Answered) {
        if let Some(place @ None) = self.answers.get_mut(index) {
            *place = Some(answer);
            self.open -= 1;
        }
    }
}
