package dev.slipway.visits;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.KeeperException.Code;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/**
 * Counters in ZooKeeper. A node holds its number and the id of the increment that wrote it: an increment whose answer was lost sees by that
 * whether it was done, and is not done twice.
 */
final class Counter {
    private static final int SESSION_MILLISECONDS = 10_000;
    private static final Duration PATIENCE = Duration.ofSeconds(25);

    private final String servers;
    private ZooKeeper connection;

    Counter(String servers) {
        this.servers = servers;
    }

    boolean isConnected() {
        try {
            ZooKeeper keeper = connection();
            return keeper.getState().isConnected();
        } catch (java.io.IOException lost) {
            return false;
        }
    }

    /** Adds one and returns the new number. Fails when ZooKeeper has not answered for 25 seconds. */
    long increment(String path) throws KeeperException, InterruptedException, java.io.IOException {
        String id = UUID.randomUUID().toString();
        Instant deadline = Instant.now().plus(PATIENCE);
        while (true) {
            ZooKeeper keeper = connection();
            try {
                Stat stat = new Stat();
                String[] now;
                try {
                    now = new String(keeper.getData(path, false, stat), StandardCharsets.UTF_8).split(" ");
                } catch (KeeperException.NoNodeException missing) {
                    create(keeper, path);
                    continue;
                }
                long number = Long.parseLong(now[0]);
                if (id.equals(now[1])) {
                    return number;
                }
                keeper.setData(path, entry(number + 1, id), stat.getVersion());
                return number + 1;
            } catch (KeeperException problem) {
                if (problem.code() == Code.SESSIONEXPIRED) {
                    renew(keeper);
                } else if (problem.code() == Code.CONNECTIONLOSS) {
                    // The client looks for another server by itself.
                    TimeUnit.MILLISECONDS.sleep(100);
                } else if (problem.code() != Code.BADVERSION) {
                    throw problem;
                }
                if (Instant.now().isAfter(deadline)) {
                    throw problem;
                }
            }
        }
    }

    private static byte[] entry(long number, String id) {
        return (number + " " + id).getBytes(StandardCharsets.UTF_8);
    }

    private static void create(ZooKeeper keeper, String path) throws KeeperException, InterruptedException {
        int parent = path.lastIndexOf('/');
        if (parent > 0 && keeper.exists(path.substring(0, parent), false) == null) {
            create(keeper, path.substring(0, parent));
        }
        try {
            keeper.create(path, entry(0, "-"), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        } catch (KeeperException.NodeExistsException already) {
            // Another request was first.
        }
    }

    private synchronized ZooKeeper connection() throws java.io.IOException {
        if (connection == null || !connection.getState().isAlive()) {
            CountDownLatch connected = new CountDownLatch(1);
            connection = new ZooKeeper(servers, SESSION_MILLISECONDS, event -> {
                if (event.getState() == KeeperState.SyncConnected) {
                    connected.countDown();
                }
            });
            try {
                connected.await(SESSION_MILLISECONDS, TimeUnit.MILLISECONDS);
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }
        return connection;
    }

    private synchronized void renew(ZooKeeper expired) throws InterruptedException {
        if (connection == expired) {
            expired.close();
            connection = null;
        }
    }

    synchronized void close() throws InterruptedException {
        if (connection != null) {
            connection.close();
        }
    }
}
