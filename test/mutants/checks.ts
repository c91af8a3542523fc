/** The check of names: its queue, its tables of flows, and its rules in the kernel. */
import type { Mutant } from './mutant.js';

type By = Mutant['killedBy'];
const pure = (file: string, test: string): By => ({ file: `test/pure/${file}.test.ts`, test });
const attack = (file: string, test: string): By => ({ file: `test/attacks/${file}.test.ts`, test });
/** A mutant of one file of src. `change`: the text, and what takes its place. */
const of =
  (file: string) =>
  (id: string, what: string, change: readonly [from: string, to: string], killedBy: By): Mutant => ({
    ...{ id, what, file: `src/${file}.ts`, killedBy },
    ...{ from: change[0], to: change[1] },
  });

const [table, queue] = [of('connections/flow-table'), of('connections/connection-checks')];
const [verified, packetLog] = [of('connections/verified-names'), of('kernel/netlink/packet-log')];
const [chains, backstop] = [of('ruleset/verdict-chains'), of('ruleset/backstop-table')];
const checkedFlows = of('ruleset/checked-flows');
const passed = of('kernel/netlink/passed-bytes');
const CHECKS_TEST = 'connections/connection-checks';
const LISTED: By = {
  file: 'test/kernel/netlink/passed-bytes.test.ts',
  test: 'an ordinary segment of the client on an established flow that is in the state of requests gets the evaluated bit',
};
const [sources, keptSockets, keeper] = [
  of('connections/check-sources'),
  of('kernel/netlink/kept-sockets'),
  of('kernel/keeper'),
];
const kernel = (file: string, test: string): By => ({ file: `test/kernel/${file}.test.ts`, test });
const HANDED_OVER: readonly Mutant[] = [
  sources(
    'check-inherit-gap',
    'after a restart, a connection whose SYN was lost is taken for an earlier one with the same ends',
    ['return isContinued ? readSavedFlows(readMemory(fd)) : [];', 'return readSavedFlows(readMemory(fd));'],
    pure(CHECKS_TEST, 'knows none if a SYN may be missing'),
  ),
  queue(
    'check-inherit-policy',
    'after a restart, a connection goes on that the policy no longer permits',
    ['this.#o.now())) this.#settle(flow, outcome);', 'this.#o.now())) void outcome;'],
    pure(CHECKS_TEST, 'and evaluates it again'),
  ),
  table(
    'check-inherit-names',
    'after a restart, a connection of HTTP goes on whose name the policy no longer permits',
    ['else return yield check.refuse(REVOKED);', 'else return void REVOKED;'],
    pure(CHECKS_TEST, 'a connection of HTTP whose name was revoked'),
  ),
  packetLog(
    'check-inherit-killed',
    'connections are taken over with a log in which SYNs may be missing',
    ['this.isContinued = isKept && next !== undefined;', 'this.isContinued = isKept;'],
    kernel('netlink/kept-sockets', 'a log that a process has left without a word'),
  ),
  keptSockets(
    'kept-other',
    'queries that wait in the socket of one container are answered by the policy of another one',
    ['kept.detail === detail', 'kept.detail !== undefined'],
    kernel('netlink/kept-sockets', 'what is of another form, is closed'),
  ),
  keeper(
    'keeper-stays',
    'an earlier version cannot start, because the keeper has its queues',
    ['|| exit 0\n  sleep', '|| :\n  sleep'],
    kernel('keeper', 'finds the sockets closed once it has locked the folder'),
  ),
];
const RULES_TEST = 'ruleset/name-checks';
const RELEASED = "rule([{ k: 'connmark', value: check.verified, mask: check.mask, not: true }], {";

const EARLY = 'by rules that the kernel has a moment before the state of their pass is published';
const TABLES: readonly Mutant[] = [
  table(
    'check-early-other',
    'the SYN of one container begins the connection of another one',
    ['syn?.identity === identity && ', 'syn !== undefined && identity >= 0 && '],
    pure(CHECKS_TEST, EARLY),
  ),
  table(
    'check-early-old',
    'a SYN that was reported long ago begins a connection',
    [' && now - syn.at <= EARLY_MS', ' && syn.at <= now + EARLY_MS'],
    pure(CHECKS_TEST, EARLY),
  ),
  table(
    'check-evict-waiting',
    'a flow whose packets wait is forgotten for a new one',
    ['if (flow.waiting.size === 0) return flow;', 'if (flow.waiting.size >= 0) return flow;'],
    pure('connections/flow-table', 'and none that waits'),
  ),
  table(
    'check-idle-http',
    'a connection of HTTP that is silent for half a minute must connect again',
    ["flow.check instanceof TlsFlow && flow.check.state === 'requests'", "flow.check.state === 'requests'"],
    pure('connections/flow-table', 'what is silent after an hour'),
  ),
  table(
    'check-idle-tls',
    'flows whose answer the kernel has read take room for an hour',
    ["flow.check.state === 'requests' ? ANSWER_MS", "flow.check.state === 'open' ? ANSWER_MS"],
    pure('connections/flow-table', 'a hello that the kernel has seen answered'),
  ),
  table(
    'check-forget-other',
    'the end of an earlier connection removes the check of the one that has its ends',
    ['if (this.#flows.get(flow.key) !== flow) return [];', ''],
    pure('connections/flow-table', 'not the flow that has taken its place'),
  ),
  verified(
    'check-verified-first',
    'names of an earlier connection of the same ends count for the next one',
    ['isFirst ? undefined : this.#flows.get(key)', 'this.#flows.get(key)'],
    pure('connections/verified-names', 'forgets the names of an earlier connection'),
  ),
  verified(
    'check-verified-every',
    'a connection stays open while one of its names is permitted',
    ['names.every((name) => judge', 'names.some((name) => judge'],
    pure('connections/verified-names', 'each of its names'),
  ),
  verified(
    'check-verified-unknown',
    'a connection of an earlier service stays open when the names of its address are denied',
    ['known ? [...known.names] : dns.learnedNames(id, flow.reply.src)', 'known ? [...known.names] : []'],
    pure('connections/verified-names', 'whose names are not known'),
  ),
  verified(
    'check-verified-unchecked',
    'connections that are not checked by name end with their names',
    [
      '(flow.mark & marks.check.mask) === 0) return true;',
      '(flow.mark & marks.check.mask) < 0) return true;',
    ],
    pure('connections/verified-names', 'that were not checked'),
  ),
];

const QUEUE: readonly Mutant[] = [
  packetLog(
    'check-lost-overruns',
    'SYNs that did not fit into the socket of the log are not counted',
    [' + this.#counts.overruns', ''],
    { file: 'test/kernel/netlink/log.test.ts', test: 'known at once' },
  ),
  packetLog(
    'check-lost-silent',
    'SYNs that did not fit into the socket of the log are noticed when the next one comes',
    ['receiveBuffer: 16 << 20,', 'receiveBuffer: 16 << 20, silentOverrun: true,'],
    { file: 'test/kernel/netlink/log.test.ts', test: 'known at once' },
  ),
  queue(
    'check-body-reopened',
    'bytes of an upload pass on the next connection of the same ends',
    ['    this.#bodies?.end(keyOfEnds(ends));\n', ''],
    pure(CHECKS_TEST, 'or another one has its ends'),
  ),
  queue(
    'check-body-forgotten',
    'bytes of an upload pass when its connection was forgotten',
    ['    this.#bodies?.end(flow.key);\n', ''],
    pure(CHECKS_TEST, 'the middle of a large body passes in the kernel'),
  ),
  passed(
    'check-body-neighbour',
    'another container passes on the bytes of an upload',
    ["{ of: 'mark', mask: identity }", "{ of: 'mark', mask: 0 }"],
    LISTED,
  ),
  passed(
    'check-body-state',
    'a connection that has sent no permitted request yet passes on the bytes of an upload',
    [
      'connmarkIs(check?.requests ?? 0, check?.mask ?? 0)',
      'connmarkIs(check?.queued ?? 0, check?.queued ?? 0)',
    ],
    LISTED,
  ),
  passed(
    'check-body-options',
    'packets with options of IP pass on the bytes of an upload',
    [', ...networkBytes(0, Buffer.from([0x45]))', ''],
    LISTED,
  ),
  chains(
    'check-body-begin',
    'a connection to port 80 passes on the bytes of an earlier upload from its first packet on',
    ['bits: check.open }),', 'bits: check.requests }),'],
    pure(RULES_TEST, 'to port 80: a SYN begins a check, and is reported'),
  ),
  passed(
    'check-body-urgent',
    'urgent data pass with the body of an upload',
    ['mask: 0x37, ack: 0x10', 'mask: 0x17, ack: 0x10'],
    attack('names-http', 'host-upload-urgent'),
  ),
  queue(
    'check-answer-unknown',
    'answers that wait in the queue are dropped, so that a second hello is never sent',
    ['if (!isFromClient) return known;', 'if (!isFromClient) return undefined;'],
    pure(CHECKS_TEST, 'and waits in the queue goes on'),
  ),
  queue(
    'check-lost-ignored',
    'after a lost SYN the packets that wait are evaluated by the earlier connection',
    ['else this.#settle(flow, flow.check.refuse(LOST));', ''],
    pure(CHECKS_TEST, 'SYNs that were not reported refuse what'),
  ),
  queue(
    'check-lost-idle',
    'after a lost SYN a flow without packets that wait goes on where the earlier connection was',
    [
      'if (flow.waiting.size === 0) this.#forget(flow);\n      else this.#settle',
      'if (flow.waiting.size > 0) this.#settle',
    ],
    pure(CHECKS_TEST, 'also those of which no packet waits'),
  ),
  queue(
    'check-again-same',
    'a SYN that is repeated ends its connection',
    ['    if (isAgain && known?.start === start) return;\n', ''],
    pure(CHECKS_TEST, 'a SYN that is repeated changes nothing'),
  ),
  queue(
    'check-again-other',
    'a second SYN with another number begins the check again, although the server may have accepted the first one',
    ['if (isAgain) this.#ends.delete(ends, undefined);\n    else if (', 'if ('],
    pure(CHECKS_TEST, 'one with another number ends the connection'),
  ),
  queue(
    'check-unseen',
    'a connection whose SYN was not seen is evaluated from number 0 on',
    ['flow.start === undefined ? UNSEEN : undefined', 'undefined'],
    pure(CHECKS_TEST, 'and so is one without a SYN'),
  ),
  queue(
    'check-syn-late',
    'packets are evaluated before the SYN that was reported ahead of them',
    [
      'this.#noteBegun();\n      this.#check(proto, packet);',
      'this.#check(proto, packet);\n      this.#noteBegun();',
    ],
    pure(CHECKS_TEST, 'a permitted hello behind its SYN goes on'),
  ),
  queue(
    'check-fault',
    'a packet that cannot be checked because of an error goes on',
    [
      "this.#queues?.[proto].verdict(packet.id, 'drop');\n      this.#o.log.warn(",
      "this.#queues?.[proto].verdict(packet.id, 'repeat', packet.mark);\n      this.#o.log.warn(",
    ],
    pure(CHECKS_TEST, 'an error before a verdict drops the packet'),
  ),
  queue(
    'check-state',
    'a flow counts as verified with its first hello',
    ['(check?.[state] ?? 0)', '(check?.verified ?? 0)'],
    pure(CHECKS_TEST, 'marks what it releases with the next state of the flow'),
  ),
  queue(
    'check-datagram-hops',
    'a datagram that dies on its way counts',
    ['if (doubt !== undefined) return check.refuse(doubt, { id });', ''],
    pure(CHECKS_TEST, 'a datagram with few hops left'),
  ),
  queue(
    'check-datagram-verified',
    'a client may begin with a short header',
    ['isVerified: (packet.mark & mask) === requests', 'isVerified: mask !== requests'],
    pure(CHECKS_TEST, 'a short header goes on only on a flow that the kernel knows'),
  ),
];

const RULES: readonly Mutant[] = [
  chains(
    'check-rule-midstream',
    'TCP without a SYN opens a flow whose beginning was not seen',
    ["    rule([tcp, { k: 'syn', not: true }], { k: 'goto', chain: names.no }),\n", ''],
    pure(RULES_TEST, 'is no TCP without a SYN, and no invalid packet'),
  ),
  chains(
    'check-rule-invalid',
    'what conntrack finds invalid opens a flow',
    [
      "    rule([{ k: 'ct', states: ['INVALID'] }], { k: 'goto', chain: names.no }),\n    rule([tcp, {",
      '    rule([tcp, {',
    ],
    pure(RULES_TEST, 'is no TCP without a SYN, and no invalid packet'),
  ),
  chains(
    'check-rule-state',
    'a new flow has no state: its content is not queued',
    ["    rule([tcp], { k: 'connMark', bits: check.open }),\n", ''],
    pure(RULES_TEST, 'to port 443: a SYN begins a check'),
  ),
  chains(
    'check-rule-refused',
    'a packet that the service refuses is queued again',
    [
      "        rule([{ k: 'mark', value: refused, mask: refused }], { k: 'goto', chain: names.refused }),\n",
      '',
    ],
    pure(RULES_TEST, 'that the service refuses is answered'),
  ),
  chains(
    'check-rule-datagrams',
    'datagrams are queued as they are merged',
    ["[[{ k: 'proto', proto: 'udp' }], datagramQueue],", "[[{ k: 'proto', proto: 'udp' }], checkQueue],"],
    pure(RULES_TEST, 'of udp waits in the queue of its protocol'),
  ),
  chains(
    'check-rule-released',
    'a packet that is released gives its state to a flow that the kernel has just verified',
    [RELEASED, 'rule([], {'],
    pure(RULES_TEST, 'leaves a flow verified'),
  ),
  {
    ...chains(
      'check-rule-released-late',
      'a packet that was in the queue takes the flow back to the state before the kernel verified it',
      [RELEASED, 'rule([], {'],
      { file: 'test/live/names-race.test.ts', test: 'stays verified' },
    ),
    // such a flow is not among those that are being checked, either
    also: [
      {
        file: 'src/ruleset/verdict-chains.ts',
        from: "{ k: 'connmark', value: marks.check.queued, mask: marks.check.queued },",
        to: "{ k: 'connmark', value: 0, mask: marks.check.mask, not: true },",
      },
    ],
  },
  backstop(
    'check-rule-unchecked',
    'a flush of filter lets flows go on that are being checked',
    ['...(marks.check ? [unchecked(marks, marks.check.queued, checked)] : []),', ''],
    pure(RULES_TEST, 'the backstop drops what should have been queued'),
  ),
  checkedFlows(
    'check-rule-syn',
    'a SYN in a flow that was verified begins another connection that is not checked',
    [
      "'ip6 nexthdr != { tcp, udp } accept',\n    beginsAgain(shape),",
      "'ip6 nexthdr != { tcp, udp } accept',",
    ],
    attack('names-fakes', 'name-last-ack-reopen v4'),
  ),
  checkedFlows(
    'check-rule-syn-data',
    'data with a SYN reach the server before anything was evaluated',
    ['      `${withData} drop`,\n', ''],
    attack('names-fakes', 'name-in-syn-cookie v4'),
  ),
  checkedFlows(
    'check-rule-retry',
    'the kernel takes a HelloRetryRequest for the answer to a hello',
    [' ${at(11, 128)} != ${RETRY_RANDOM}', ''],
    attack('names-tls', 'name-after-retry v4'),
  ),
  checkedFlows(
    'check-rule-split-retry',
    'the kernel takes a HelloRetryRequest that is split over records for the answer to a hello',
    [' ${at(3, 16)} >= 38', ''],
    attack('names-tls', 'name-after-split-retry v4'),
  ),
];

export const CHECKS: readonly Mutant[] = [TABLES, QUEUE, HANDED_OVER, RULES].flat();
