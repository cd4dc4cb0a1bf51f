import io.aeron.ExclusivePublication;
import io.aeron.Image;
import io.aeron.archive.Archive;
import io.aeron.archive.ArchiveThreadingMode;
import io.aeron.archive.client.AeronArchive;
import io.aeron.cluster.ClusteredMediaDriver;
import io.aeron.cluster.ConsensusModule;
import io.aeron.cluster.client.AeronCluster;
import io.aeron.cluster.client.EgressListener;
import io.aeron.cluster.codecs.CloseReason;
import io.aeron.cluster.service.ClientSession;
import io.aeron.cluster.service.Cluster;
import io.aeron.cluster.service.ClusteredService;
import io.aeron.cluster.service.ClusteredServiceContainer;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import io.aeron.logbuffer.Header;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.IdleStrategy;
import org.agrona.concurrent.NoOpLock;
import org.agrona.concurrent.UnsafeBuffer;
import org.agrona.concurrent.YieldingIdleStrategy;

import static java.nio.charset.StandardCharsets.US_ASCII;

/**
 * Aeron Cluster on the work of `cargo xtask bench --peers`: three JVMs, each with a
 * ClusteredMediaDriver and an echo service, and this one as the client with a driver of its own.
 * Prints the one line of JSON that the bench reads. Its ways (SHARED threads, yielding idle
 * everywhere, sockets and windows as large as the kernel allows up to 2 MiB) are those with which
 * Aeron was quickest on two cores.
 */
public final class Load implements EgressListener {
    private static final String HOST = "127.0.0.1";
    private static final int PORTS = 5;
    private static final int MEMBERS = 3;
    private static final long PATIENCE_NS = 30_000_000_000L;

    public static void main(String[] words) throws Exception {
        List<String> all = new ArrayList<>(Arrays.asList(words));
        String chore = all.isEmpty() ? "" : all.remove(0);
        if (chore.equals("member")) {
            member(all);
        } else if (chore.equals("run")) {
            run(all);
        } else {
            throw new IllegalArgumentException("usage: Load run --len N --in-flight N --seconds S "
                + "--warm-up S --wait yield --dir DIR [--durable]");
        }
    }

    private static String word(List<String> words, String flag) {
        int at = words.indexOf(flag);
        if (at < 0 || at + 1 >= words.size()) {
            throw new IllegalArgumentException(flag + " needs a word");
        }
        words.remove(at);
        return words.remove(at);
    }

    // ---- a member ----

    /** Echoes what it is sent. */
    private static final class Echo implements ClusteredService {
        private IdleStrategy idle;

        public void onStart(Cluster cluster, Image snapshot) {
            idle = cluster.idleStrategy();
        }

        public void onSessionOpen(ClientSession session, long timestamp) {
        }

        public void onSessionClose(ClientSession session, long timestamp, CloseReason reason) {
        }

        public void onSessionMessage(ClientSession session, long timestamp, DirectBuffer buffer,
            int offset, int length, Header header) {
            idle.reset();
            while (session.offer(buffer, offset, length) < 0) {
                idle.idle();
            }
        }

        public void onTimerEvent(long correlationId, long timestamp) {
        }

        public void onTakeSnapshot(ExclusivePublication publication) {
        }

        public void onRoleChange(Cluster.Role role) {
        }

        public void onTerminate(Cluster cluster) {
        }
    }

    private static int bufferLength() {
        long most = 128 << 10;
        // Not `Files.readString`: it reads a file of no size byte by byte, and a sysctl only once.
        try (InputStream file = Files.newInputStream(Path.of("/proc/sys/net/core/rmem_max"))) {
            byte[] text = new byte[32];
            int length = file.read(text);
            most = Long.parseLong(new String(text, 0, length, US_ASCII).trim());
        } catch (IOException error) {
            System.err.println("rmem_max is not known: " + error);
        }
        return (int) Math.min(most, 2 << 20);
    }

    private static MediaDriver.Context driver(String directory) {
        return new MediaDriver.Context()
            .aeronDirectoryName(directory)
            .dirDeleteOnStart(true)
            .threadingMode(ThreadingMode.SHARED)
            .sharedIdleStrategy(new YieldingIdleStrategy())
            .socketRcvbufLength(bufferLength())
            .socketSndbufLength(bufferLength())
            .initialWindowLength(bufferLength())
            .termBufferSparseFile(true);
    }

    private static void member(List<String> words) throws Exception {
        int id = Integer.parseInt(word(words, "--id"));
        String members = word(words, "--members");
        String driver = word(words, "--driver");
        File dir = new File(word(words, "--dir"));
        int sync = words.remove("--durable") ? 1 : 0;
        String archivePort = members.split("\\|")[id].split(",")[PORTS];
        String any = "aeron:udp?endpoint=" + HOST + ":0";

        Archive.Context archive = new Archive.Context()
            .aeronDirectoryName(driver)
            .archiveDir(new File(dir, "archive"))
            .controlChannel("aeron:udp?endpoint=" + archivePort)
            .localControlChannel("aeron:ipc?term-length=64k")
            .replicationChannel(any)
            .recordingEventsEnabled(false)
            .fileSyncLevel(sync)
            .catalogFileSyncLevel(sync)
            .idleStrategySupplier(YieldingIdleStrategy::new)
            .threadingMode(ArchiveThreadingMode.SHARED);
        AeronArchive.Context client = new AeronArchive.Context()
            .lock(NoOpLock.INSTANCE)
            .controlRequestChannel(archive.localControlChannel())
            .controlRequestStreamId(archive.localControlStreamId())
            .controlResponseChannel(archive.localControlChannel())
            .aeronDirectoryName(driver);
        archive.archiveClientContext(new AeronArchive.Context().controlResponseChannel(any));
        ConsensusModule.Context consensus = new ConsensusModule.Context()
            .clusterMemberId(id)
            .clusterMembers(members)
            .clusterDir(new File(dir, "cluster"))
            .ingressChannel("aeron:udp?term-length=16m")
            .egressChannel("aeron:udp?term-length=16m")
            .replicationChannel(any)
            .fileSyncLevel(sync)
            .idleStrategySupplier(YieldingIdleStrategy::new)
            .archiveContext(client.clone());
        ClusteredServiceContainer.Context service = new ClusteredServiceContainer.Context()
            .aeronDirectoryName(driver)
            .archiveContext(client.clone())
            .clusterDir(new File(dir, "cluster"))
            .idleStrategySupplier(YieldingIdleStrategy::new)
            .clusteredService(new Echo());

        try (ClusteredMediaDriver all =
                 ClusteredMediaDriver.launch(driver(driver), archive, consensus);
             ClusteredServiceContainer container = ClusteredServiceContainer.launch(service)) {
            Thread.sleep(Long.MAX_VALUE);
        }
    }

    // ---- the client ----

    private final UnsafeBuffer text;
    private final ArrayDeque<Long> asked = new ArrayDeque<>();
    private long[] latencies = new long[1 << 20];
    private int count;
    private boolean counts;
    private double seconds;
    private long next;
    private long answered;
    private long heard;

    private Load(int length) {
        text = new UnsafeBuffer(new byte[length]);
        for (int at = 0; at < length; at++) {
            text.putByte(at, (byte) at);
        }
    }

    public void onMessage(long session, long timestamp, DirectBuffer buffer, int offset,
        int length, Header header) {
        Long due = asked.poll();
        boolean isNumbered = length < 8 || buffer.getLong(offset) == answered;
        answered++;
        if (due == null || length != text.capacity() || !isNumbered) {
            throw new IllegalStateException("an answer is not the echo of what was asked");
        }
        for (int at = 8; at < length; at++) {
            if (buffer.getByte(offset + at) != (byte) at) {
                throw new IllegalStateException("an echo has other bytes");
            }
        }
        heard = System.nanoTime();
        if (counts) {
            if (count == latencies.length) {
                latencies = Arrays.copyOf(latencies, 2 * count);
            }
            latencies[count++] = heard - due;
        }
    }

    private void flood(AeronCluster cluster, int inFlight, double seconds) {
        long began = System.nanoTime();
        long time = (long) (seconds * 1e9);
        heard = began;
        while (System.nanoTime() - began < time) {
            long now = System.nanoTime();
            while (asked.size() < inFlight && offer(cluster, now)) {
                // The next one.
            }
            poll(cluster);
        }
        // Answers that come later count for what they cost, not for rate and latency.
        this.seconds = (System.nanoTime() - began) / 1e9;
        counts = false;
        while (!asked.isEmpty()) {
            poll(cluster);
        }
    }

    private boolean offer(AeronCluster cluster, long now) {
        if (text.capacity() >= 8) {
            text.putLong(0, next);
        }
        if (cluster.offer(text, 0, text.capacity()) < 0) {
            return false;
        }
        asked.add(now);
        next++;
        return true;
    }

    private void poll(AeronCluster cluster) {
        if (cluster.pollEgress() <= 0) {
            if (System.nanoTime() - heard > PATIENCE_NS) {
                throw new IllegalStateException("no answer for too long");
            }
            Thread.yield();
        }
    }

    private static void run(List<String> words) throws Exception {
        int length = Integer.parseInt(word(words, "--len"));
        int inFlight = Integer.parseInt(word(words, "--in-flight"));
        double seconds = Double.parseDouble(word(words, "--seconds"));
        double warmUp = Double.parseDouble(word(words, "--warm-up"));
        String wait = word(words, "--wait");
        File dir = new File(word(words, "--dir"));
        boolean isDurable = words.remove("--durable");
        if (!words.isEmpty() || !wait.equals("yield")) {
            throw new IllegalArgumentException("what is this? " + wait + " " + words);
        }
        int[] ports = freePorts(MEMBERS * PORTS);
        StringBuilder members = new StringBuilder();
        StringBuilder ingress = new StringBuilder();
        for (int id = 0; id < MEMBERS; id++) {
            members.append(id);
            for (int port = 0; port < PORTS; port++) {
                members.append(',').append(HOST).append(':').append(ports[id * PORTS + port]);
            }
            members.append('|');
            ingress.append(id == 0 ? "" : ",").append(id).append('=');
            ingress.append(HOST).append(':').append(ports[id * PORTS]);
        }
        List<Process> processes = new ArrayList<>();
        List<String> drivers = new ArrayList<>();
        String base = "/dev/shm/coracle-peers-" + ProcessHandle.current().pid() + "-";
        Runtime.getRuntime().addShutdownHook(new Thread(() -> end(processes, drivers)));
        for (int id = 0; id < MEMBERS; id++) {
            String driver = base + id;
            drivers.add(driver);
            List<String> command = again();
            command.addAll(List.of("member", "--id", "" + id, "--members", members.toString(),
                "--driver", driver, "--dir", new File(dir, "member-" + id).getPath()));
            if (isDurable) {
                command.add("--durable");
            }
            ProcessBuilder builder = new ProcessBuilder(command);
            builder.redirectOutput(new File(dir, "member-" + id + ".log"));
            builder.redirectErrorStream(true);
            processes.add(builder.start());
        }
        drivers.add(base + "client");
        measure(new Load(length), inFlight, seconds, warmUp, ingress.toString(), drivers,
            processes);
    }

    private static void measure(Load load, int inFlight, double seconds, double warmUp,
        String ingress, List<String> drivers, List<Process> processes) throws Exception {
        try (MediaDriver driver = MediaDriver.launch(driver(drivers.get(MEMBERS)));
             AeronCluster cluster = AeronCluster.connect(new AeronCluster.Context()
                 .egressListener(load)
                 .egressChannel("aeron:udp?term-length=16m|endpoint=" + HOST + ":0")
                 .ingressChannel("aeron:udp?term-length=16m")
                 .ingressEndpoints(ingress)
                 .messageTimeoutNs(PATIENCE_NS)
                 .idleStrategy(new YieldingIdleStrategy())
                 .aeronDirectoryName(driver.aeronDirectoryName()))) {
            load.flood(cluster, inFlight, warmUp);
            double membersBefore = 0;
            for (Process process : processes) {
                membersBefore += runTime(process.pid());
            }
            double clientBefore = runTime(ProcessHandle.current().pid());
            load.counts = true;
            long before = load.answered;
            load.flood(cluster, inFlight, seconds);
            double all = load.answered - before;
            double members = -membersBefore;
            for (Process process : processes) {
                members += runTime(process.pid());
            }
            double client = runTime(ProcessHandle.current().pid()) - clientBefore;
            long[] sorted = Arrays.copyOf(load.latencies, load.count);
            Arrays.sort(sorted);
            int count = sorted.length;
            if (count == 0) {
                throw new IllegalStateException("nothing was answered");
            }
            System.out.println(String.format(Locale.ROOT, "{\"count\":%d,\"rate\":%.3f,"
                + "\"p50_us\":%.3f,\"p99_us\":%.3f,\"members_us\":%.3f,\"client_us\":%.3f}",
                count, count / load.seconds, sorted[(count - 1) / 2] / 1e3,
                sorted[(int) ((count - 1) * 0.99)] / 1e3, members * 1e6 / all,
                client * 1e6 / all));
        }
    }

    /** This program once more, with the same class path and the same packages opened. */
    private static List<String> again() {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        for (String module : List.of("jdk.internal.misc", "sun.nio.ch")) {
            command.add("--add-opens");
            command.add("java.base/" + module + "=ALL-UNNAMED");
        }
        command.addAll(List.of("-cp", System.getProperty("java.class.path"), "Load"));
        return command;
    }

    private static int[] freePorts(int count) throws IOException {
        List<DatagramSocket> sockets = new ArrayList<>();
        try {
            int[] ports = new int[count];
            for (int at = 0; at < count; at++) {
                DatagramSocket socket = new DatagramSocket(0, InetAddress.getByName(HOST));
                sockets.add(socket);
                ports[at] = socket.getLocalPort();
            }
            return ports;
        } finally {
            sockets.forEach(DatagramSocket::close);
        }
    }

    /** Seconds that all threads of a process have run so far. */
    private static double runTime(long process) throws IOException {
        double nanos = 0;
        try (Stream<Path> tasks = Files.list(Path.of("/proc/" + process + "/task"))) {
            for (Path task : (Iterable<Path>) tasks::iterator) {
                try {
                    String text = Files.readString(task.resolve("schedstat"));
                    nanos += Double.parseDouble(text.split(" ")[0]);
                } catch (IOException ended) {
                    // A thread may have ended meanwhile.
                }
            }
        }
        return nanos / 1e9;
    }

    private static void end(List<Process> processes, List<String> drivers) {
        for (Process process : processes) {
            process.destroyForcibly();
            process.onExit().join();
        }
        for (String driver : drivers) {
            try (Stream<Path> files = Files.walk(Path.of(driver))) {
                files.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
            } catch (IOException gone) {
                // Never made.
            }
        }
    }
}
