// A MongoDB-wire server for tests: mongo-java-server, announced as MongoDB 7.0.
//
// Why a program of its own: current drivers need wire version 9 and the library announces 8 at most, and its file
// backend writes once a second, so that a killed server would forget writes that it had acknowledged.
//
// Usage: java -cp 'classes:libs/*' WireServer <port> memory|<file>

import de.bwaldvogel.mongo.MongoBackend;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.List;

public final class WireServer {
    private static final MongoVersion VERSION =
            new MongoVersion() {
                @Override
                public List<Integer> getVersionArray() {
                    return List.of(7, 0, 0);
                }

                @Override
                public int getWireVersion() {
                    return 21;
                }
            };

    /** Writes the file before it answers, so that what was acknowledged survives a kill of the process. */
    private static final class DurableBackend extends H2Backend {
        DurableBackend(String file) {
            super(file);
        }

        @Override
        public Document handleMessage(MongoMessage message) {
            Document answer = super.handleMessage(message);
            if (getMvStore().hasUnsavedChanges()) {
                commit();
            }
            return answer;
        }
    }

    public static void main(String[] arguments) {
        if (arguments.length != 2) {
            System.err.println("usage: WireServer <port> memory|<file>");
            System.exit(2);
        }
        int port = Integer.parseInt(arguments[0]);
        MongoBackend backend =
                arguments[1].equals("memory") ? new MemoryBackend() : new DurableBackend(arguments[1]);
        backend.version(VERSION);
        MongoServer server = new MongoServer(backend);
        server.bind("127.0.0.1", port);
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        System.out.println("WireServer is listening on " + port);
    }
}
