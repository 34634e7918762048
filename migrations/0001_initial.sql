-- The first schema. Times are INTEGER microseconds UTC. States are the numbers
-- of quantd.v1.JobState: 1 PENDING, 2 QUEUED, 3 LEASED, 4 RUNNING,
-- 5 CANCELLING, 6 SUCCEEDED, 7 FAILED, 8 CANCELLED.

CREATE TABLE jobs (
  -- The order of submission: pages of lists go by it.
  ordinal INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL UNIQUE CHECK (length(job_id) >= 4),
  kind TEXT NOT NULL CHECK (kind IN ('quantize', 'evaluate')),
  method TEXT NOT NULL,
  model TEXT NOT NULL,
  display_name TEXT NOT NULL,
  -- A serialized quantd.v1.JobSpec.
  spec BLOB NOT NULL,
  request_id TEXT UNIQUE,
  request_digest TEXT NOT NULL,
  priority INTEGER NOT NULL,
  -- Within one priority: smaller is granted first.
  queue_rank INTEGER NOT NULL,

  state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 8),
  phase TEXT NOT NULL DEFAULT '',
  pending_reason TEXT NOT NULL DEFAULT '',
  backoff_micros INTEGER NOT NULL DEFAULT 0 CHECK (backoff_micros >= 0),
  backoff_since INTEGER NOT NULL DEFAULT 0,
  failure_class TEXT NOT NULL DEFAULT '' CHECK (failure_class IN (
    '', 'INVALID', 'RESOURCE', 'NUMERIC', 'TRANSIENT', 'LOST', 'DRAINED',
    'INTERNAL')),
  failure_reason TEXT NOT NULL DEFAULT '',
  -- A serialized quantd.v1.Failure.
  failure BLOB,

  -- The fence: a write of a worker names all three.
  epoch INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
  incarnation TEXT NOT NULL DEFAULT '',
  worker_name TEXT NOT NULL DEFAULT '',
  attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt BETWEEN 0 AND epoch),
  transient_failures INTEGER NOT NULL DEFAULT 0,
  resource_failures INTEGER NOT NULL DEFAULT 0,
  unproductive_losses INTEGER NOT NULL DEFAULT 0,
  steps_at_last_loss INTEGER NOT NULL DEFAULT 0,

  fingerprint TEXT NOT NULL DEFAULT '',
  committed_steps INTEGER NOT NULL DEFAULT 0 CHECK (committed_steps >= 0),
  -- A serialized quantd.v1.JobReport.
  report BLOB,
  last_event_seq INTEGER NOT NULL DEFAULT 0 CHECK (last_event_seq >= 0),
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  finalized_at INTEGER,

  CHECK ((state IN (6, 7, 8)) = (finalized_at IS NOT NULL)),
  CHECK ((state IN (3, 4, 5)) = (incarnation <> '')),
  CHECK (state NOT IN (3, 4, 5) OR worker_name <> ''),
  CHECK ((state = 1) = (pending_reason <> '')),
  CHECK ((state = 7) = (failure_class <> '')),
  CHECK ((state = 7) = (failure IS NOT NULL))
) STRICT;

CREATE INDEX jobs_queue ON jobs (priority DESC, queue_rank, ordinal)
  WHERE state = 2;
CREATE INDEX jobs_by_state ON jobs (state);

CREATE TABLE job_labels (
  job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (job_id, key)
) STRICT, WITHOUT ROWID;

-- One row per grant.
CREATE TABLE attempts (
  job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
  epoch INTEGER NOT NULL CHECK (epoch >= 1),
  attempt INTEGER NOT NULL CHECK (attempt >= 1),
  worker_name TEXT NOT NULL,
  incarnation TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER,
  -- The job's state that this attempt led to; with result_digest it answers a
  -- repeated Finish.
  ended_state INTEGER CHECK (ended_state IN (1, 2, 6, 7, 8)),
  result_digest TEXT NOT NULL DEFAULT '',
  failure BLOB,
  log_tail TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (job_id, epoch),
  CHECK ((ended_at IS NULL) = (ended_state IS NULL))
) STRICT, WITHOUT ROWID;

-- Durable progress: never done again under the same fingerprint.
CREATE TABLE steps (
  job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
  fingerprint TEXT NOT NULL CHECK (fingerprint <> ''),
  step INTEGER NOT NULL CHECK (step >= 0),
  -- A serialized quantd.v1.Step.
  body BLOB NOT NULL,
  committed_at INTEGER NOT NULL,
  PRIMARY KEY (job_id, fingerprint, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE step_blobs (
  job_id TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  step INTEGER NOT NULL,
  role TEXT NOT NULL,
  sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
  size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
  PRIMARY KEY (job_id, fingerprint, step, role),
  FOREIGN KEY (job_id, fingerprint, step)
    REFERENCES steps (job_id, fingerprint, step) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX step_blobs_by_sha256 ON step_blobs (sha256);

-- The history of a job: seq is dense and starts at 1.
CREATE TABLE events (
  job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
  seq INTEGER NOT NULL CHECK (seq >= 1),
  -- A serialized quantd.v1.Event.
  body BLOB NOT NULL,
  PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
  ordinal INTEGER PRIMARY KEY,
  artifact_id TEXT NOT NULL UNIQUE CHECK (length(artifact_id) >= 4),
  job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  -- A serialized quantd.v1.Artifact.
  body BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX artifacts_by_job ON artifacts (job_id);

CREATE TABLE artifact_blobs (
  artifact_id TEXT NOT NULL
    REFERENCES artifacts (artifact_id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
  size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
  PRIMARY KEY (artifact_id, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_blobs_by_sha256 ON artifact_blobs (sha256);

CREATE TABLE workers (
  worker_name TEXT PRIMARY KEY,
  incarnation TEXT NOT NULL,
  device BLOB NOT NULL,
  code_version TEXT NOT NULL,
  registered_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The newest catalog that a worker registered.
CREATE TABLE catalog (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  body BLOB NOT NULL
) STRICT;

-- Written when the store wants to know whether the disk takes writes again.
CREATE TABLE probe (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  count INTEGER NOT NULL
) STRICT;
INSERT INTO probe VALUES (1, 0);
