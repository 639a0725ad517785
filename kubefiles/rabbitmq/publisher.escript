#!/usr/bin/env escript
%% publisher.escript FOLDER SECRET HOST...: publish numbered messages to a quorum queue, through every loss of a connection, until FOLDER/stop
%% exists. FOLDER/confirmed says all the time how many the cluster has confirmed. Then read the queue to its end and print what came of it:
%% {"confirmed": 812, "received": 815, "lost": []}. A message whose confirmation was lost is published again: it may arrive twice.
-include_lib("amqp_client/include/amqp_client.hrl").
-record(state, {folder, secret, hosts, next = 1, waiting = #{}, confirmed = #{}}).

-define(QUEUE, <<"orders">>).
-define(WINDOW, 50).

main([Folder, Secret | Hosts]) ->
    {ok, _} = application:ensure_all_started(amqp_client),
    ok = logger:set_primary_config(level, none),
    State = publish(#state{folder = Folder, secret = Secret, hosts = Hosts}),
    Received = receive_all(State, #{}),
    Lost = [Number || Number <- lists:sort(maps:keys(State#state.confirmed)), not maps:is_key(Number, Received)],
    io:format("{\"confirmed\": ~b, \"received\": ~b, \"lost\": ~0p}~n", [map_size(State#state.confirmed), map_size(Received), Lost]).

%% Publishing ends with no message in doubt.
publish(State) ->
    case connect(State) of
        {ok, Connection, Channel} ->
            #'confirm.select_ok'{} = amqp_channel:call(Channel, #'confirm.select'{}),
            ok = amqp_channel:register_confirm_handler(Channel, self()),
            ok = amqp_channel:register_return_handler(Channel, self()),
            Again = lists:sort(maps:values(State#state.waiting)),
            {Over, After} = try send_and_wait(Channel, lists:foldl(send(Channel), State#state{waiting = #{}}, Again))
                            catch throw:{lost, Kept} -> {again, Kept#state{waiting = keep(Again, Kept)}}
                            end,
            catch amqp_connection:close(Connection, 5000),
            flush(),
            case Over of done -> After; again -> publish(After) end;
        error -> timer:sleep(200), publish(State)
    end.

%% What waits, and what of Again was not sent before the connection broke.
keep(Again, #state{waiting = Waiting, confirmed = Confirmed}) ->
    Numbers = lists:usort(maps:values(Waiting) ++ [Number || Number <- Again, not maps:is_key(Number, Confirmed)]),
    maps:from_list([{{again, Number}, Number} || Number <- Numbers]).

send(Channel) ->
    fun(Number, State = #state{waiting = Waiting}) ->
        Kept = State#state{waiting = Waiting#{{again, Number} => Number}},
        try
            Tag = amqp_channel:next_publish_seqno(Channel),
            Message = #amqp_msg{props = #'P_basic'{delivery_mode = 2}, payload = integer_to_binary(Number)},
            ok = amqp_channel:call(Channel, #'basic.publish'{routing_key = ?QUEUE, mandatory = true}, Message),
            State#state{waiting = Waiting#{Tag => Number}}
        catch _:_ -> throw({lost, Kept})
        end
    end.

send_and_wait(Channel, State = #state{folder = Folder, waiting = Waiting, next = Next}) ->
    Stop = filelib:is_file(filename:join(Folder, "stop")),
    if
        Stop, map_size(Waiting) =:= 0 -> {done, State};
        not Stop, map_size(Waiting) < ?WINDOW ->
            %% Some hundred a second: the queue is read to its end afterwards.
            timer:sleep(4),
            Sent = (send(Channel))(Next, State#state{next = Next + 1}),
            send_and_wait(Channel, answers(Channel, Sent, 0));
        true -> send_and_wait(Channel, answers(Channel, State, 100))
    end.

answers(Channel, State, Patience) ->
    receive
        #'basic.ack'{delivery_tag = Tag, multiple = Multiple} -> answers(Channel, confirm(Tag, Multiple, State), 0);
        #'basic.nack'{} -> throw({lost, State});
        {#'basic.return'{}, _} -> io:format("a message was returned: the queue is gone~n"), halt(1);
        {'DOWN', _, process, _, _} -> throw({lost, State})
    after Patience ->
        case is_process_alive(Channel) of true -> State; false -> throw({lost, State}) end
    end.

confirm(Tag, Multiple, State = #state{folder = Folder, waiting = Waiting, confirmed = Before}) ->
    Tags = [Each || Each <- maps:keys(Waiting), Each =:= Tag orelse (Multiple andalso Each =< Tag)],
    Confirmed = maps:merge(Before, maps:from_list([{maps:get(Each, Waiting), true} || Each <- Tags])),
    ok = file:write_file(filename:join(Folder, "confirmed"), integer_to_binary(map_size(Confirmed))),
    State#state{waiting = maps:without(Tags, Waiting), confirmed = Confirmed}.

receive_all(State, Received) ->
    case connect(State) of
        {ok, Connection, Channel} ->
            #'basic.qos_ok'{} = amqp_channel:call(Channel, #'basic.qos'{prefetch_count = 500}),
            #'basic.consume_ok'{} = amqp_channel:subscribe(Channel, #'basic.consume'{queue = ?QUEUE}, self()),
            {Over, After} = take(Channel, Received),
            catch amqp_connection:close(Connection, 5000),
            flush(),
            case Over of done -> After; again -> receive_all(State, After) end;
        error -> timer:sleep(200), receive_all(State, Received)
    end.

%% The queue is empty when it has nothing ready and all that it delivered is acknowledged.
take(Channel, Received) ->
    receive
        {#'basic.deliver'{delivery_tag = Tag}, #amqp_msg{payload = Payload}} ->
            catch amqp_channel:cast(Channel, #'basic.ack'{delivery_tag = Tag}),
            take(Channel, Received#{binary_to_integer(Payload) => true});
        {'DOWN', _, process, _, _} -> {again, Received};
        #'basic.cancel'{} -> {again, Received};
        #'basic.consume_ok'{} -> take(Channel, Received)
    after 1000 ->
        try amqp_channel:call(Channel, declaration()) of
            #'queue.declare_ok'{message_count = 0} -> {done, Received};
            #'queue.declare_ok'{} -> take(Channel, Received)
        catch _:_ -> {again, Received}
        end
    end.

declaration() -> #'queue.declare'{queue = ?QUEUE, durable = true, arguments = [{<<"x-queue-type">>, longstr, <<"quorum">>}]}.

connect(#state{secret = Secret, hosts = Hosts}) ->
    {ok, User} = file:read_file(filename:join(Secret, "user")),
    {ok, Password} = file:read_file(filename:join(Secret, "password")),
    Host = lists:nth(rand:uniform(length(Hosts)), Hosts),
    try
        {ok, Connection} = amqp_connection:start(#amqp_params_network{
            username = User, password = Password, host = Host, heartbeat = 5, connection_timeout = 5000}),
        {ok, Channel} = amqp_connection:open_channel(Connection),
        _ = monitor(process, Channel),
        #'queue.declare_ok'{} = amqp_channel:call(Channel, declaration()),
        {ok, Connection, Channel}
    catch _:_ -> error
    end.

flush() -> receive _ -> flush() after 0 -> ok end.
