import static java.nio.charset.StandardCharsets.US_ASCII;

import io.aeron.cluster.client.AeronCluster;
import io.aeron.cluster.client.EgressListener;
import io.aeron.cluster.codecs.AdminRequestType;
import io.aeron.cluster.codecs.AdminResponseCode;
import io.aeron.cluster.codecs.EventCode;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import io.aeron.logbuffer.Header;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.concurrent.TimeUnit;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.UnsafeBuffer;
import org.agrona.concurrent.YieldingIdleStrategy;

/**
 * Aeron's own cluster client, as it is, with a cluster that echoes: one session that lives as long
 * as this program. It does what the lines of its input say, and prints one line when it has.
 *
 * <pre>
 * echo N LENGTH   offers N messages, 64 on their way, and compares the answers
 * idle MILLIS     only looks for egress and keeps the session alive
 * leader          prints the leader and its term
 * snapshot        asks for a snapshot, and prints the answer
 * </pre>
 *
 * At the end of the input it closes the session.
 */
public final class Client implements EgressListener {
    private static final int IN_FLIGHT = 64;
    private static final long PATIENCE_NS = TimeUnit.SECONDS.toNanos(20);

    private AeronCluster cluster;
    private final UnsafeBuffer text = new UnsafeBuffer(new byte[1 << 20]);
    private int length;
    private long offered;
    private long answered;
    private long lost;
    private int leader;
    private long term;
    private String admin;
    private long heard;

    public static void main(String[] words) throws Exception {
        if (words.length != 2) {
            throw new IllegalArgumentException("usage: Client DIRECTORY ENDPOINTS");
        }
        Client client = new Client();
        MediaDriver.Context context = new MediaDriver.Context()
            .aeronDirectoryName(words[0])
            .dirDeleteOnStart(true)
            .dirDeleteOnShutdown(true)
            .threadingMode(ThreadingMode.SHARED);
        AeronCluster.Context session = new AeronCluster.Context()
            .egressListener(client)
            .egressChannel("aeron:udp?endpoint=127.0.0.1:0")
            .ingressChannel("aeron:udp")
            .ingressEndpoints(words[1])
            .idleStrategy(new YieldingIdleStrategy())
            .aeronDirectoryName(words[0]);
        try (MediaDriver driver = MediaDriver.launch(context);
             AeronCluster cluster = AeronCluster.connect(session)) {
            client.cluster = cluster;
            client.leader = cluster.leaderMemberId();
            client.term = cluster.leadershipTermId();
            System.out.println("open " + cluster.clusterSessionId());
            BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, US_ASCII));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                System.out.println(client.perform(line.split(" ")));
            }
        }
        System.out.println("closed");
    }

    private String perform(String[] words) {
        switch (words[0]) {
            case "echo":
                return echo(Long.parseLong(words[1]), Integer.parseInt(words[2]));
            case "idle":
                idle(TimeUnit.MILLISECONDS.toNanos(Long.parseLong(words[1])));
                return "idle";
            case "leader":
                return "leader " + leader + " term " + term;
            case "snapshot":
                return snapshot();
            default:
                throw new IllegalArgumentException("what is " + words[0] + "?");
        }
    }

    /** What a leader has not answered when another one follows, nobody answers. */
    private String echo(long count, int length) {
        this.length = length;
        offered = 0;
        answered = 0;
        lost = 0;
        heard = System.nanoTime();
        for (int at = 8; at < length; at++) {
            text.putByte(at, (byte) at);
        }
        while (answered + lost < count) {
            boolean hasRoom = offered < count && offered - answered - lost < IN_FLIGHT;
            text.putLong(0, offered);
            if (hasRoom && cluster.offer(text, 0, length) > 0) {
                offered++;
            }
            poll();
        }
        return "echoed " + answered + " lost " + lost;
    }

    private String snapshot() {
        admin = null;
        heard = System.nanoTime();
        while (!cluster.sendAdminRequestToTakeASnapshot(7)) {
            poll();
        }
        while (admin == null) {
            poll();
        }
        return admin;
    }

    private void idle(long nanos) {
        long began = System.nanoTime();
        while (System.nanoTime() - began < nanos) {
            heard = System.nanoTime();
            poll();
        }
    }

    private void poll() {
        if (cluster.pollEgress() <= 0) {
            if (System.nanoTime() - heard > PATIENCE_NS) {
                throw new IllegalStateException("nothing was heard for too long");
            }
            cluster.sendKeepAlive();
            Thread.yield();
        }
    }

    public void onMessage(long session, long timestamp, DirectBuffer buffer, int offset,
        int length, Header header) {
        heard = System.nanoTime();
        long number = buffer.getLong(offset);
        if (length != this.length || number != answered + lost) {
            throw new IllegalStateException("answer " + number + " of " + length + " bytes");
        }
        for (int at = 8; at < length; at++) {
            if (buffer.getByte(offset + at) != (byte) at) {
                throw new IllegalStateException("an echo has other bytes");
            }
        }
        answered++;
    }

    public void onNewLeader(long session, long term, int leader, String endpoints) {
        heard = System.nanoTime();
        this.leader = leader;
        this.term = term;
        lost = offered - answered;
    }

    public void onSessionEvent(long correlation, long session, long term, int leader,
        EventCode code, String detail) {
        if (code != EventCode.OK) {
            throw new IllegalStateException(code + ": " + detail);
        }
    }

    public void onAdminResponse(long session, long correlation, AdminRequestType type,
        AdminResponseCode code, String message, DirectBuffer payload, int offset, int length) {
        admin = "snapshot " + correlation + " " + code + " " + message;
    }
}
