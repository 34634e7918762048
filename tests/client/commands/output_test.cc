// SPDX-License-Identifier: Apache-2.0
// What each command prints, against text written by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/client/fakes/qctl.h"

namespace quantd::commands {
namespace {

using fakes::Golden;
using fakes::Outcome;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class OutputTest : public ::testing::Test {
 protected:
  OutputTest() {
    server_.jobs = {fakes::RunningJob(), fakes::FinishedJob()};
    server_.catalog = fakes::SmallCatalog();
    server_.artifacts = {fakes::SmallArtifact(server_)};
    for (const v1::Job& job : server_.jobs) {
      server_.events[job.job_id()] = fakes::EventsOf(job);
    }
    auto& worker = *server_.workers.add_workers();
    worker.set_worker_name("local-1");
    worker.set_state("BUSY");
    worker.mutable_device()->set_id("cpu");
    worker.mutable_device()->set_total_memory_bytes(8'000'000'000);
    worker.mutable_device()->set_free_memory_bytes(4'000'000'000);
    worker.set_job_id("k3f9x2ab7cdefghjkmnp");
    worker.mutable_last_heartbeat_time()->set_seconds(1699999995);
    worker.set_code_version("c0ffee");
    qctl_.server = server_.address();
  }

  fakes::FakeServer server_;
  fakes::Qctl qctl_;
};

TEST_F(OutputTest, ListShowsStateProgressAgeMethodAndModel) {
  const Outcome outcome = qctl_.Run({"list"});
  EXPECT_EQ(outcome.out, Golden("list.txt"));
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(outcome.code, 0);
}

TEST_F(OutputTest, ListAsNamesPrintsFullIds) {
  EXPECT_EQ(qctl_.Run({"list", "-o", "name"}).out,
            "k3f9x2ab7cdefghjkmnp\np8w2m4n6q7rstuvwxyz2\n");
}

TEST_F(OutputTest, ListAsJsonLinesPrintsAJobPerLine) {
  const std::string out = qctl_.Run({"list", "-o", "jsonl"}).out;
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 2);
  EXPECT_THAT(out, StartsWith("{\"job_id\":\"k3f9x2ab7cdefghjkmnp\","));
}

TEST_F(OutputTest, ListFlagsBecomeOneFilter) {
  qctl_.Run({"list", "--state", "running", "--state", "QUEUED", "--method",
             "gptq", "--label", "run=night"});
  const std::string filter = server_.lists().at(0).filter();
  EXPECT_THAT(filter, AllOf(HasSubstr("RUNNING"), HasSubstr("OR"),
                            HasSubstr("QUEUED"), HasSubstr("method"),
                            HasSubstr("label.run"), HasSubstr("night")));
}

TEST_F(OutputTest, GetShowsEverythingKnown) {
  EXPECT_EQ(qctl_.Run({"get", "k3f9x2"}).out, Golden("get.txt"));
}

TEST_F(OutputTest, GetAsJsonIsStable) {
  EXPECT_EQ(qctl_.Run({"get", "k3f9x2", "-o", "json"}).out, Golden("get.json"));
}

TEST_F(OutputTest, WatchInAPipePrintsALinePerEventAndTheResult) {
  const Outcome outcome = qctl_.Run({"watch", "p8w2m4"});
  EXPECT_EQ(outcome.out, Golden("watch.txt"));
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(outcome.code, 0);
}

TEST_F(OutputTest, AnArtifactThatIsLargerThanItsSourceIsCalledLarger) {
  server_.jobs[1].mutable_report()->set_quantized_bytes(2 * 4820000);
  EXPECT_THAT(qctl_.Run({"get", "p8w2m4"}).out,
              HasSubstr(", 2.00 times larger"));
}

TEST_F(OutputTest, LossCurvesAreInTheReport) {
  v1::LayerReport* layer = server_.jobs[1].mutable_report()->mutable_layers(1);
  layer->set_first_loss(0.125);
  layer->set_last_loss(0.5);
  for (const int64_t step : {0, 500}) {
    v1::LossPoint* point = layer->add_loss_curve();
    point->set_step(step);
    point->set_loss(step == 0 ? 0.125 : 0.5);
  }
  EXPECT_THAT(qctl_.Run({"get", "p8w2m4"}).out,
              HasSubstr("learned     0.5 of plain rounding's loss is left, the "
                        "mean of 1 curve\n"));
  EXPECT_THAT(qctl_.Run({"get", "p8w2m4", "-o", "jsonl"}).out,
              HasSubstr("\"first_loss\":0.125,\"last_loss\":0.5,"
                        "\"loss_curve\":[{\"step\":0,\"loss\":0.125},"
                        "{\"step\":500,\"loss\":0.5}]"));
}

// As methods that learn name their iterations.
TEST_F(OutputTest, WatchShowsTheLossOfAnIteration) {
  v1::Event event;
  event.mutable_time()->set_seconds(1699989201);
  event.mutable_progress()->set_phase("quantize");
  event.mutable_progress()->set_detail("block 2, iteration 40 of 200");
  event.mutable_progress()->set_loss(0.75);
  server_.events[server_.jobs[1].job_id()].insert(
      server_.events[server_.jobs[1].job_id()].begin() + 2, event);
  EXPECT_THAT(qctl_.Run({"watch", "p8w2m4"}).out,
              HasSubstr("block 2, iteration 40 of 200, loss 0.75"));
}

TEST_F(OutputTest, WatchAsJsonKeepsStandardOutputForTheResult) {
  const Outcome outcome = qctl_.Run({"watch", "p8w2m4", "-o", "json"});
  EXPECT_THAT(outcome.out, StartsWith("{\n  \"job_id\""));
  EXPECT_THAT(outcome.err, HasSubstr("RUNNING on local-1"));
}

TEST_F(OutputTest, WatchOnATerminalRedrawsAndShowsTheCursorAgain) {
  qctl_.terminal.interactive = true;
  qctl_.terminal.width = [] { return 60; };
  const Outcome outcome = qctl_.Run({"watch", "p8w2m4"});
  EXPECT_THAT(outcome.out, StartsWith("\x1b[?25l"));
  EXPECT_LT(outcome.out.rfind("\x1b[?25l"), outcome.out.rfind("\x1b[?25h"));
  EXPECT_THAT(outcome.out, HasSubstr("block 1/6"));
  EXPECT_THAT(outcome.out, HasSubstr("[quantize]"));
}

TEST_F(OutputTest, ArtifactListShowsSizes) {
  EXPECT_EQ(qctl_.Run({"artifact", "list"}).out, Golden("artifact_list.txt"));
}

TEST_F(OutputTest, ArtifactShowHasFilesAndManifest) {
  EXPECT_THAT(qctl_.Run({"artifact", "show", "3f2a"}).out,
              AllOf(HasSubstr("weights/model.safetensors  38 B"),
                    HasSubstr("\"files\"")));
}

TEST_F(OutputTest, CatalogShowsEverySeamThatSharesAnId) {
  EXPECT_EQ(qctl_.Run({"catalog", "gptq"}).out, Golden("catalog_gptq.txt"));
}

TEST_F(OutputTest, CatalogNamesTheNearestOfAnUnknownId) {
  const Outcome outcome = qctl_.Run({"catalog", "gptk"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("the nearest are gptq"));
}

TEST_F(OutputTest, WorkersShowDeviceAndJob) {
  EXPECT_EQ(qctl_.Run({"workers"}).out, Golden("workers.txt"));
  EXPECT_EQ(qctl_.Run({"workers", "-o", "json"}).out, Golden("workers.json"));
}

TEST_F(OutputTest, ServerStatusCountsJobs) {
  server_.server_status.set_ready(true);
  (*server_.server_status.mutable_jobs())["RUNNING"] = 2;
  (*server_.server_status.mutable_jobs())["FAILED"] = 0;
  EXPECT_THAT(qctl_.Run({"server", "status"}).out,
              AllOf(HasSubstr("ready          yes\n"),
                    HasSubstr("jobs           2 RUNNING\n")));
}

TEST_F(OutputTest, ExplainPrintsSentences) {
  EXPECT_EQ(qctl_.Run({"explain", "k3f9x2"}).out,
            "The job waits for a worker.\nIt is next in the queue.\n");
}

TEST_F(OutputTest, LogsArePrintedWhole) {
  server_.log = "first line\nsecond line\n";
  EXPECT_EQ(qctl_.Run({"logs", "k3f9x2"}).out, server_.log);
}

TEST_F(OutputTest, AnEmptyLogIsSaidOnStandardErrorAlone) {
  server_.log = "";
  const Outcome outcome = qctl_.Run({"logs", "p8w2m4"});
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("has written no log"));
}

TEST_F(OutputTest, ANearestFlagIsNamedOnce) {
  const std::string err = qctl_.Run({"list", "--hepl"}).err;
  const size_t first = err.find("--help");
  ASSERT_NE(first, std::string::npos);
  // The other one is the hint's.
  EXPECT_EQ(err.find("--help, --help"), std::string::npos);
}

TEST_F(OutputTest, ACommandOfCommandsNamesThem) {
  const Outcome outcome = qctl_.Run({"artifact"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("list"), HasSubstr("show"),
                                 HasSubstr("pull"), HasSubstr("verify")));
}

TEST_F(OutputTest, AFolderToVerifyThatIsNotThereIsSaidAsSuch) {
  const Outcome outcome = qctl_.Run({"artifact", "verify", "/no/such/folder"});
  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.err, HasSubstr("no folder /no/such/folder"));
}

// Of a mixture: experts see tokens of their own.
TEST_F(OutputTest, LayersThatAreNotListedAreCounted) {
  v1::JobReport& report = *server_.jobs[1].mutable_report();
  report.clear_layers();
  for (int i = 0; i < 12; ++i) {
    v1::LayerReport& layer = *report.add_layers();
    layer.set_name(absl::StrCat("experts.", i));
    layer.set_tokens(10 * i);
    layer.set_verdict(i < 11 ? v1::VERDICT_RTN_FALLBACK : v1::VERDICT_OK);
  }
  const std::string out = qctl_.Run({"get", "p8w2m4"}).out;
  EXPECT_THAT(out, HasSubstr("1 ok, 11 rtn_fallback"));
  EXPECT_THAT(out, HasSubstr("rtn_fallback: experts.7"));
  EXPECT_THAT(out, Not(HasSubstr("experts.8")));
  EXPECT_THAT(out, HasSubstr("and 3 more"));
  EXPECT_THAT(out, HasSubstr("; 0 to 110 of them reach a layer"));
}

TEST_F(OutputTest, AQueuedJobShowsWhatItWaitsFor) {
  server_.jobs[0].set_state(v1::JOB_STATE_QUEUED);
  server_.jobs[0].set_pending_reason("NO_CAPABLE_WORKER");
  EXPECT_THAT(qctl_.Run({"list"}).out, HasSubstr("NO_CAPABLE_WORKER"));
  EXPECT_THAT(qctl_.Run({"get", "k3f9x2"}).out,
              HasSubstr("QUEUED, NO_CAPABLE_WORKER; `qctl explain`"));
}

TEST_F(OutputTest, LogsCannotMoveTheCursorOfATerminal) {
  server_.log = "a\x1b[2Jb\n";
  qctl_.terminal.interactive = true;
  EXPECT_EQ(qctl_.Run({"logs", "k3f9x2"}).out, "a?[2Jb\n");
}

TEST_F(OutputTest, NamesCannotMoveTheCursorOfATerminal) {
  server_.jobs[0].mutable_spec()->mutable_quantize()->set_model("x\x1b[2J");
  EXPECT_THAT(qctl_.Run({"list"}).out, Not(HasSubstr("\x1b")));
}

TEST_F(OutputTest, CancelAndRetryShowTheNewState) {
  EXPECT_EQ(qctl_.Run({"cancel", "k3f9x2"}).out,
            "JOB         STATE\nk3f9x2ab7c  CANCELLING\n");
  EXPECT_EQ(qctl_.Run({"retry", "k3f9x2", "-o", "name"}).out,
            "k3f9x2ab7cdefghjkmnp\n");
}

TEST_F(OutputTest, ConfigSaysWhereEachValueComesFrom) {
  qctl_.server.clear();
  qctl_.environment = {{"QUANTD_SERVER", "127.0.0.1:9999"}, {"NO_COLOR", "1"}};
  EXPECT_EQ(qctl_.Run({"config", "--timeout", "30s"}).out,
            Golden("config.txt"));
}

TEST_F(OutputTest, EnvironmentOverridesTheFileAndAFlagTheEnvironment) {
  qctl_.server.clear();
  const support::TemporaryDirectory home;
  const std::string folder = home.File("quantd");
  ASSERT_EQ(system(absl::StrCat("mkdir -p ", folder).c_str()), 0);
  std::ofstream(folder + "/qctl.yaml") << "server: a:1\noutput: jsonl\n";
  qctl_.environment = {{"XDG_CONFIG_HOME", home.path()}};
  EXPECT_THAT(qctl_.Run({"config"}).out,
              AllOf(HasSubstr("\"a:1\""), HasSubstr("qctl.yaml")));
  qctl_.environment["QUANTD_SERVER"] = "b:2";
  EXPECT_THAT(qctl_.Run({"config"}).out, HasSubstr("\"b:2\""));
  EXPECT_THAT(qctl_.Run({"config", "--server", "c:3"}).out,
              HasSubstr("\"c:3\""));
}

TEST_F(OutputTest, UnknownKeyOfTheSettingsFileNamesTheNearest) {
  const support::TemporaryDirectory home;
  ASSERT_EQ(system(absl::StrCat("mkdir -p ", home.File("quantd")).c_str()), 0);
  std::ofstream(home.File("quantd/qctl.yaml")) << "sever: a:1\n";
  qctl_.environment = {{"XDG_CONFIG_HOME", home.path()}};
  const Outcome outcome = qctl_.Run({"config"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("\"sever\""), HasSubstr("server"),
                                 HasSubstr("[CONFIG_INVALID]")));
}

TEST_F(OutputTest, CompletionScriptsParse) {
  const support::TemporaryDirectory folder;
  const std::string script = qctl_.Run({"completion", "bash"}).out;
  EXPECT_THAT(script, AllOf(HasSubstr("--keep-lm-head-fp16"),
                            HasSubstr("\"artifact pull\")")));
  std::ofstream(folder.File("bash")) << script;
  EXPECT_EQ(system(absl::StrCat("bash -n ", folder.File("bash")).c_str()), 0);
  EXPECT_THAT(qctl_.Run({"completion", "zsh"}).out, StartsWith("#compdef"));
  EXPECT_THAT(qctl_.Run({"completion", "fish"}).out,
              HasSubstr("-l keep-lm-head-fp16"));
}

TEST_F(OutputTest, BashCompletionOffersSubcommands) {
  const support::TemporaryDirectory folder;
  std::ofstream(folder.File("try"))
      << qctl_.Run({"completion", "bash"}).out
      << "COMP_WORDS=(qctl artifact pu); COMP_CWORD=2; _qctl\n"
         "[ \"${COMPREPLY[*]}\" = pull ]\n";
  EXPECT_EQ(system(absl::StrCat("bash ", folder.File("try")).c_str()), 0);
}

// Exit codes.

struct CodeCase {
  int grpc_code;
  int exit_code;
};

class ExitCodeTest : public OutputTest,
                     public ::testing::WithParamInterface<CodeCase> {};

TEST_P(ExitCodeTest, ErrorsOfTheServerHaveTheirOwnCode) {
  server_.get_job_code = GetParam().grpc_code;
  server_.get_job_reason = "SOME_REASON";
  const Outcome outcome = qctl_.Run({"get", "k3f9x2"});
  EXPECT_EQ(outcome.code, GetParam().exit_code);
  EXPECT_THAT(outcome.err, HasSubstr("error: told to fail [SOME_REASON]\n"));
  EXPECT_EQ(outcome.out, "");
}

// gRPC codes by number: INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND,
// PERMISSION_DENIED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED.
INSTANTIATE_TEST_SUITE_P(Codes, ExitCodeTest,
                         ::testing::Values(CodeCase{3, 2}, CodeCase{4, 7},
                                           CodeCase{5, 6}, CodeCase{7, 4},
                                           CodeCase{13, 1}, CodeCase{14, 8},
                                           CodeCase{16, 4}));

struct StateCase {
  v1::JobState state;
  int exit_code;
};

class JobExitCodeTest : public OutputTest,
                        public ::testing::WithParamInterface<StateCase> {};

TEST_P(JobExitCodeTest, WaitEndsWithTheJobsCode) {
  server_.jobs[1].set_state(GetParam().state);
  EXPECT_EQ(qctl_.Run({"wait", "p8w2m4"}).code, GetParam().exit_code);
  EXPECT_EQ(qctl_.Run({"watch", "p8w2m4"}).code, GetParam().exit_code);
}

INSTANTIATE_TEST_SUITE_P(
    States, JobExitCodeTest,
    ::testing::Values(StateCase{v1::JOB_STATE_SUCCEEDED, 0},
                      StateCase{v1::JOB_STATE_FAILED, 3},
                      StateCase{v1::JOB_STATE_CANCELLED, 5}));

TEST_F(OutputTest, AServerThatIsNotThereIsRetriedThenReported) {
  qctl_.server = "127.0.0.1:1";
  const Outcome outcome = qctl_.Run({"list"});
  EXPECT_EQ(outcome.code, 8);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("next attempt in"), HasSubstr("127.0.0.1:1"),
                    HasSubstr("--server")));
}

TEST_F(OutputTest, MistypedCommandsAndFlagsNameTheNearest) {
  const Outcome command = qctl_.Run({"submt"});
  EXPECT_EQ(command.code, 2);
  EXPECT_THAT(command.err, HasSubstr("the nearest are submit"));
  const Outcome flag = qctl_.Run(
      {"submit", "--model", "m", "--method", "gptq", "--grup-size", "64"});
  EXPECT_EQ(flag.code, 2);
  EXPECT_THAT(flag.err, HasSubstr("\"--grup-size\"; the nearest are "
                                  "--group-size"));
}

TEST_F(OutputTest, NoCommandPrintsTheHelp) {
  qctl_.server.clear();
  const Outcome outcome = qctl_.Run({});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("submit"));
  EXPECT_EQ(qctl_.Run({"--help"}).code, 0);
}

}  // namespace
}  // namespace quantd::commands
