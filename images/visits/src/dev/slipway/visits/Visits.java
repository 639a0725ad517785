package dev.slipway.visits;

import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Arrays;
import java.util.Optional;
import java.util.UUID;
import java.util.regex.Pattern;
import org.apache.zookeeper.KeeperException;

/** Counts the visits of each visitor, who is known by a cookie, and of all. No instance keeps anything: the counts are in ZooKeeper. */
public final class Visits extends HttpServlet {
    private static final long serialVersionUID = 1;
    private static final String COOKIE = "visitor";
    private static final Pattern ID = Pattern.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}");

    private transient Counter counter;

    @Override
    public void init() {
        counter = new Counter(System.getenv("ZOOKEEPER"));
    }

    @Override
    public void destroy() {
        try {
            counter.close();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        switch (request.getServletPath()) {
            case "/healthz" -> answer(response, counter.isConnected() ? 200 : 503, "{}");
            case "" -> visit(request, response);
            default -> answer(response, 404, "{}");
        }
    }

    private void visit(HttpServletRequest request, HttpServletResponse response) throws IOException {
        String visitor = visitor(request).orElseGet(() -> UUID.randomUUID().toString());
        try {
            long visits = counter.increment("/visits/visitors/" + visitor);
            long total = counter.increment("/visits/total");
            Cookie cookie = new Cookie(COOKIE, visitor);
            cookie.setHttpOnly(true);
            cookie.setMaxAge(365 * 24 * 3600);
            response.addCookie(cookie);
            String pod = System.getenv("HOSTNAME");
            answer(response, 200, "{\"visits\": " + visits + ", \"total\": " + total + ", \"pod\": \"" + pod + "\"}");
        } catch (KeeperException problem) {
            log("ZooKeeper does not answer", problem);
            answer(response, 503, "{}");
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
            answer(response, 503, "{}");
        }
    }

    /** The visitor's id, if the cookie has one: it becomes part of a path. */
    private static Optional<String> visitor(HttpServletRequest request) {
        Cookie[] cookies = request.getCookies() == null ? new Cookie[0] : request.getCookies();
        return Arrays.stream(cookies)
            .filter(cookie -> COOKIE.equals(cookie.getName()) && ID.matcher(cookie.getValue()).matches())
            .map(Cookie::getValue)
            .findFirst();
    }

    private static void answer(HttpServletResponse response, int status, String body) throws IOException {
        response.setStatus(status);
        response.setContentType("application/json");
        response.setHeader("Cache-Control", "no-store");
        response.getWriter().println(body);
    }
}
