// SPDX-License-Identifier: Apache-2.0
// One function per verb: declares its arguments on `app` and, where the command
// line chose it, sets the session's command.
#pragma once

namespace CLI {
class App;
}

namespace quantd::commands {

class Session;

void AddSubmit(CLI::App& app, Session& session);
void AddEvaluate(CLI::App& app, Session& session);
void AddList(CLI::App& app, Session& session);
void AddGet(CLI::App& app, Session& session);
void AddWatch(CLI::App& app, Session& session);
void AddWait(CLI::App& app, Session& session);
void AddLogs(CLI::App& app, Session& session);
void AddCancel(CLI::App& app, Session& session);
void AddRetry(CLI::App& app, Session& session);
void AddExplain(CLI::App& app, Session& session);
void AddArtifact(CLI::App& app, Session& session);
void AddArtifactPull(CLI::App& artifact, Session& session);
void AddArtifactVerify(CLI::App& artifact, Session& session);
void AddCatalog(CLI::App& app, Session& session);
void AddWorkers(CLI::App& app, Session& session);
void AddServer(CLI::App& app, Session& session);
void AddConfig(CLI::App& app, Session& session);
void AddCompletion(CLI::App& app, Session& session);

}  // namespace quantd::commands
