//! What the server and its peers said to each other, and when: read out of the bytes of their sockets.

use std::collections::{HashMap, VecDeque};

use crate::common::packet;
use crate::durable::Submission;
use crate::shim::trace::{Kind, Trace};

/// What is known of one background job. Moments are places in the trace.
pub(crate) struct Job {
    pub(crate) submission: Submission,
    /// The client's connection, by its order; and the place among the jobs of this connection.
    pub(crate) connection: usize,
    /// When its packet had arrived.
    pub(crate) submitted: usize,
    /// When JOB_CREATED had left.
    pub(crate) acknowledged: Option<usize>,
    pub(crate) handle: Option<String>,
    /// When its end had first arrived: a result, or a cancellation.
    pub(crate) ended: Option<usize>,
    /// From when on it must not come back: something that arrived after its end is acknowledged, by the same
    /// server.
    pub(crate) gone: Option<usize>,
}

/// The jobs of a trace, in the order in which they arrived.
pub(crate) struct Conversation {
    pub(crate) jobs: Vec<Job>,
    /// When ends of a job arrived, by its handle: a worker may be faster than the answer to the client.
    ends: HashMap<String, Vec<usize>>,
    /// When servers started, in order.
    starts: Vec<usize>,
}

/// One connection, while its bytes come and go.
#[derive(Default)]
struct Stream {
    connection: usize,
    received: Vec<u8>,
    sent: Vec<u8>,
    /// The jobs that were submitted and not yet answered; `None` for a foreground job.
    unanswered: VecDeque<Option<usize>>,
}

impl Conversation {
    pub(crate) fn read(trace: &Trace) -> Self {
        let mut conversation = Self { jobs: Vec::new(), ends: HashMap::new(), starts: Vec::new() };
        let mut streams: HashMap<u32, Stream> = HashMap::new();
        let mut connections = 0;
        for (moment, record) in trace.records.iter().enumerate() {
            match record.kind {
                Kind::Started => {
                    streams.clear();
                    conversation.starts.push(moment);
                }
                Kind::Accepted => {
                    connections += 1;
                    streams.insert(record.detail, Stream { connection: connections, ..Stream::default() });
                }
                Kind::Received => {
                    let stream = streams.get_mut(&record.detail).expect("a connection that was accepted");
                    stream.received.extend_from_slice(trace.data(record));
                    conversation.requests(stream, moment);
                }
                Kind::Sent => {
                    let stream = streams.get_mut(&record.detail).expect("a connection that was accepted");
                    stream.sent.extend_from_slice(trace.data(record));
                    conversation.responses(stream, moment);
                }
                _ => {}
            }
        }
        conversation.find_ends();
        conversation
    }

    /// How many jobs were acknowledged before a moment and have not ended by then.
    pub(crate) fn owed(&self, moment: usize) -> usize {
        self.jobs.iter().filter(|job| job.is_owed(moment)).count()
    }

    fn requests(&mut self, stream: &mut Stream, moment: usize) {
        while let Some(line_or_packet) = take(&mut stream.received) {
            match line_or_packet {
                Item::Line(line) => {
                    if let Some(handle) = line.strip_prefix("cancel job ") {
                        self.end(handle, moment);
                    }
                }
                Item::Packet(packet::SUBMIT_JOB | packet::SUBMIT_JOB_HIGH | packet::SUBMIT_JOB_LOW, _) => {
                    stream.unanswered.push_back(None);
                }
                Item::Packet(packet::WORK_COMPLETE | packet::WORK_FAIL, body) => {
                    let handle = body.split(|byte| *byte == 0).next().unwrap_or_default();
                    self.end(&String::from_utf8_lossy(handle), moment);
                }
                Item::Packet(packet_type, body) => {
                    if let Some(submission) = Submission::parse(packet_type, &body) {
                        stream.unanswered.push_back(Some(self.jobs.len()));
                        self.jobs.push(Job {
                            submission,
                            connection: stream.connection,
                            submitted: moment,
                            acknowledged: None,
                            handle: None,
                            ended: None,
                            gone: None,
                        });
                    }
                }
            }
        }
    }

    fn responses(&mut self, stream: &mut Stream, moment: usize) {
        while let Some(line_or_packet) = take(&mut stream.sent) {
            match line_or_packet {
                Item::Packet(packet::JOB_CREATED, body) => {
                    if let Some(job) = stream.unanswered.pop_front().expect("a JOB_CREATED for each job") {
                        let handle = String::from_utf8_lossy(&body).into_owned();
                        self.jobs[job].acknowledged = Some(moment);
                        self.jobs[job].handle = Some(handle);
                    }
                }
                // Workers of these tests say nothing that is answered with an error.
                Item::Packet(packet::ERROR, _) => {
                    stream.unanswered.pop_front();
                }
                Item::Packet(..) | Item::Line(_) => {}
            }
        }
    }

    fn end(&mut self, handle: &str, moment: usize) {
        self.ends.entry(handle.to_owned()).or_default().push(moment);
    }

    /// What arrives after the end of a job is carried out after it: its acknowledgement covers that end. Each
    /// end is the first request of its read, and the server has one thread.
    ///
    /// Only a job that was submitted to the same server covers it. A server that is killed may take an end
    /// with it that nothing has covered, for a removal waits a moment for others. The job is there again for
    /// the next server, and what that one acknowledges says nothing of it until the job ends once more.
    fn find_ends(&mut self) {
        let covers: Vec<(usize, Option<usize>)> =
            self.jobs.iter().map(|job| (job.submitted, job.acknowledged)).collect();
        for job in &mut self.jobs {
            let Some(ends) = job.handle.as_ref().and_then(|handle| self.ends.get(handle)) else {
                continue;
            };
            job.ended = ends.first().copied();
            let gone_by = |ended: usize| {
                let next_start = self.starts.iter().copied().find(|start| *start > ended).unwrap_or(usize::MAX);
                let later = covers.iter().filter(|(submitted, _)| *submitted > ended && *submitted < next_start);
                later.filter_map(|(_, at)| *at).min()
            };
            job.gone = ends.iter().filter_map(|ended| gone_by(*ended)).min();
        }
    }
}

impl Job {
    /// Whether it must be there after a cut at this moment.
    pub(crate) fn is_owed(&self, moment: usize) -> bool {
        self.acknowledged.is_some_and(|at| at < moment) && self.ended.is_none_or(|at| at >= moment)
    }
}

enum Item {
    Packet(u32, Vec<u8>),
    Line(String),
}

/// Takes the first whole packet or line away.
fn take(bytes: &mut Vec<u8>) -> Option<Item> {
    if *bytes.first()? != 0 {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned();
        bytes.drain(..=end);
        return Some(Item::Line(line));
    }
    let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (packet_type, length) = (word(4)?, word(8)? as usize);
    let body = bytes.get(packet::HEADER_SIZE..packet::HEADER_SIZE + length)?.to_vec();
    bytes.drain(..packet::HEADER_SIZE + length);
    Some(Item::Packet(packet_type, body))
}
