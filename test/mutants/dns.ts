/** Names: what is asked, answered and learned. */
import type { Mutant } from './mutant.js';

export const DNS: readonly Mutant[] = [
  {
    id: 'learn-foreign',
    what: 'what a foreign resolver says to an observed container is permitted once it is enforced',
    file: 'src/dns/recorder.ts',
    from: 'until: trusted ? shownUntil : 0',
    to: 'until: shownUntil',
    killedBy: {
      file: 'test/kernel/dns/observed.test.ts',
      test: 'have answers of a resolver of their own shown, and nothing of them permitted once enforced',
    },
  },
  {
    id: 'learn-foreign-sets',
    what: 'the same by the set that stands when it is enforced',
    file: 'src/dns/recorder.ts',
    from: "trusted ? 'sets' : 'shown'",
    to: "'sets'",
    killedBy: {
      file: 'test/kernel/dns/observed.test.ts',
      test: 'have answers of a resolver of their own shown, and nothing of them permitted once enforced',
    },
  },
  {
    id: 'names-ahead',
    what: 'before Docker has reported it, the names of an enforced container are asked by Docker',
    file: 'src/kernel/sandbox-thread.ts',
    from: 'else if (armed.prepare && isOfContainer(path))',
    to: "else if (armed.prepare && path === '')",
    killedBy: {
      file: 'test/live/late-names.test.ts',
      test: 'are denied, and asked of nobody, when they are not',
    },
  },
  {
    id: 'names-ahead-docker',
    what: 'questions of an observed container wait that were asked before Docker has reported it',
    file: 'src/dns/container-namespaces.ts',
    from: "return isCertain || attached.has(container) ? 'docker' : undefined;",
    to: 'return isCertain && attached.has(container) ? undefined : undefined;',
    killedBy: {
      file: 'test/live/late-names.test.ts',
      test: 'are answered by Docker, when it is observed',
    },
  },
  {
    id: 'names-own-resolvers',
    what: 'after a container with resolvers of its own, the first names of the next one are asked by Docker',
    file: 'src/dns/namespace-dns.ts',
    from: ' || this.#namespaces.hasOwnResolvers(id)) return;',
    to: ') return;',
    killedBy: {
      file: 'test/live/late-names.test.ts',
      test: 'a container with resolvers of its own leaves the others as they are',
    },
  },
  {
    id: 'names-passed',
    what: 'a container that asked Docker and is enforced now goes on asking Docker by its old socket',
    file: 'src/dns/namespace-dns.ts',
    from: '      await this.#endPassing(path); // Docker would go on answering a flow that exists there\n',
    to: '',
    killedBy: {
      file: 'test/pure/dns/namespace-dns.test.ts',
      test: 'asked Docker and is enforced now is answered by us alone',
    },
  },
  {
    id: 'names-unknown-networks',
    what: 'the name of a neighbour is denied before the networks of its asker are known',
    file: 'src/dns/query-pipeline.ts',
    from: "if (action.kind === 'deny' && action.verdict === 'deny') {",
    to: "if (action.kind === 'deny' && action.reason === '') {",
    killedBy: { file: 'test/live/late-names.test.ts', test: 'of neighbours are found: mode enforce' },
  },
  {
    id: 'learn-covered',
    what: 'an address entry and a name that resolves to it open the ports of both',
    file: 'src/dns/recorder.ts',
    from: '{ ...this.rules(container, name, decision), covers: () => false }',
    to: 'this.rules(container, name, decision)',
    killedBy: { file: 'test/attacks/dns-answers.test.ts', test: 'answers-entry-ports', only: true },
  },
  {
    id: 'decide-detours',
    what: 'names below the zones of encrypted resolvers are answered',
    file: 'src/dns/decide.ts',
    from: 'detours.some((zone) => isWithin(query.name, zone))',
    to: 'detours.includes(query.name)',
    killedBy: {
      file: 'test/pure/dns/decide.test.ts',
      test: 'and what is below it even where an entry allows the name',
    },
  },
  {
    id: 'upstream-private-zone',
    what: 'the chain of a public name makes Drawbridge ask a private zone',
    file: 'src/dns/upstream.ts',
    from: 'return first.zone === route.zone ? route : first;',
    to: 'return route;',
    killedBy: {
      file: 'test/kernel/dns/resolution.test.ts',
      test: 'does not ask the servers of a private zone where the chain of a public name leads there',
    },
  },
  {
    id: 'evicted-ended',
    what: 'an address that has ended in the ledger makes room there, and stays in the kernel for the rest of its last second',
    file: 'src/dns/ledger.ts',
    from: 'victims.filter((v) => v.until > 0)',
    to: 'victims.filter((v) => v.until > Date.now() + 120_000)',
    killedBy: {
      file: 'test/kernel/dns/kernel-sets.test.ts',
      test: 'also when addresses have ended that the kernel still permits',
    },
  },
  {
    id: 'evicted-late',
    what: 'the addresses of an answer are permitted before those that they take the place of are removed',
    file: 'src/dns/recorder.ts',
    from: '[...evicted.map((fact) => this.#withdraw(fact, setsOf)), this.#insert(members)]',
    to: '[this.#insert(members), ...evicted.map((fact) => this.#withdraw(fact, setsOf))]',
    killedBy: {
      file: 'test/kernel/dns/kernel-sets.test.ts',
      test: 'the kernel has at most 1,000 addresses at any time, whatever the ledger has of them',
    },
  },
  {
    id: 'kept-revision',
    what: 'a reply is sent again after the policy, the threats or the servers have changed',
    file: 'src/dns/kept-replies.ts',
    from: '    if (revision !== this.#revision) {\n      this.clear();\n      return undefined;\n    }\n',
    to: '',
    killedBy: { file: 'test/pure/dns/kept-replies.test.ts', test: 'under another revision' },
  },
  {
    id: 'kept-ledger',
    what: 'a reply is sent again after the ledger has given up one of its addresses',
    file: 'src/dns/kept-replies.ts',
    from: 'changesOf(kept.stamps) === kept.changes',
    to: 'changesOf(kept.stamps) >= kept.changes',
    killedBy: {
      file: 'test/pure/dns/kept-replies.test.ts',
      test: 'when the ledger has forgotten the container',
    },
  },
  {
    id: 'kept-kernel',
    what: 'a reply is sent again although the kernel has lost its addresses',
    file: 'src/dns/kept-replies.ts',
    from: 'if (!members.ensure(wall)) return false;',
    to: 'members.ensure(wall);',
    killedBy: {
      file: 'test/kernel/dns/kernel-sets.test.ts',
      test: 'finds out that another process has flushed the set',
    },
  },
  {
    id: 'kept-heir',
    what: 'the next container at an address gets the replies of its predecessor',
    file: 'src/dns/query-pipeline.ts',
    from: 'client.container ?? this.#o.policy.containerAt(client.address);',
    to: 'client.container ?? client.address;',
    killedBy: {
      file: 'test/kernel/dns/kernel-sets.test.ts',
      test: 'is not for the next container at the same address',
    },
  },
  {
    id: 'kept-own-copy',
    what: 'kept replies leave without the addresses in the set of a macvlan namespace',
    file: 'src/netns-rules/netns-rules.ts',
    from: 'subject === undefined || subject.lan !== undefined ? undefined',
    to: 'subject === undefined ? undefined',
    killedBy: {
      file: 'test/pure/netns-rules/copies.test.ts',
      test: 'of a container with rules in its namespace',
    },
  },
];
