/** Written by npm run schemas from the description of the API. */
export interface paths {
    readonly "/v1/status": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Number of enforced containers, and the state of the kernel and the store
         * @description It needs the role read.
         */
        readonly get: operations["getStatus"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * All containers
         * @description It needs the role read. It takes 2 tokens of the rate.
         */
        readonly get: operations["getContainers"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers/{container}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * One container
         * @description It needs the role read.
         */
        readonly get: operations["getContainersContainer"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers/{container}/grants": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Allow one more destination, for a time or without end
         * @description It needs the role write.
         */
        readonly post: operations["postContainersContainerGrants"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers/{container}/grants/{grant}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        readonly post?: never;
        /**
         * Revoke a grant
         * @description It needs the role write.
         */
        readonly delete: operations["deleteContainersContainerGrantsGrant"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers/{container}/mode": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The mode that is set through the API, with the ETag that guards a change of it
         * @description It needs the role read.
         */
        readonly get: operations["getContainersContainerMode"];
        /**
         * Set the mode, for a time or without end, or confirm a trial
         * @description It needs the role write.
         */
        readonly put: operations["putContainersContainerMode"];
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/modes": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        /**
         * Set the mode of several containers: all of them, or none. Mode auto takes one owner, such as compose:shop/web, of which no container is left
         * @description It needs the role write. It takes 2 tokens of the rate.
         */
        readonly put: operations["putModes"];
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers/{container}/preview": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What mode enforce, or a list, would deny according to the recording; changes nothing
         * @description It needs the role read.
         */
        readonly get: operations["getContainersContainerPreview"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers/{container}/pause": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Do not enforce this container for a time
         * @description It needs the role write.
         */
        readonly post: operations["postContainersContainerPause"];
        /**
         * End it: Do not enforce this container for a time
         * @description It needs the role write.
         */
        readonly delete: operations["deleteContainersContainerPause"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/pause": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Enforce no container for a time
         * @description It needs the role admin.
         */
        readonly post: operations["postPause"];
        /**
         * End it: Enforce no container for a time
         * @description It needs the role admin.
         */
        readonly delete: operations["deletePause"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/lockdown": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Whether every container has an empty policy now
         * @description It needs the role read.
         */
        readonly get: operations["getLockdown"];
        /**
         * Give every container an empty policy, or end that
         * @description It needs the role admin.
         */
        readonly put: operations["putLockdown"];
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/lists": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * All lists, of the folder and the store
         * @description It needs the role read. It takes 10 tokens of the rate.
         */
        readonly get: operations["getLists"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/lists/{name}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * One list
         * @description It needs the role read. It takes 2 tokens of the rate.
         */
        readonly get: operations["getListsName"];
        /**
         * Create or replace a list of the store; the body has the fields of a list file
         * @description It needs the role write.
         */
        readonly put: operations["putListsName"];
        readonly post?: never;
        /**
         * Delete a list of the store
         * @description It needs the role write.
         */
        readonly delete: operations["deleteListsName"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/lists/{name}/entries": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Add an entry to a list of the store: { entry: TEXT }, or the object form
         * @description It needs the role write.
         */
        readonly post: operations["postListsNameEntries"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/lists/{name}/entries/{entry}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        readonly post?: never;
        /**
         * Remove an entry
         * @description It needs the role write.
         */
        readonly delete: operations["deleteListsNameEntriesEntry"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/asks": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What containers want to reach and a person may decide (docs/ask.md), the oldest request first
         * @description It needs the role read.
         */
        readonly get: operations["getAsks"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/asks/{id}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Allow it for a time, once or for good, or deny it
         * @description It needs the role write.
         */
        readonly post: operations["postAsksId"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/explain": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What happens to a connection, which entry or feed decides, and the remedy
         * @description It needs the role read. It takes 2 tokens of the rate.
         */
        readonly get: operations["getExplain"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/plan": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Changes that a pass would make in the kernel now, one per line; empty: nothing to change
         * @description It needs the role read. It takes 5 tokens of the rate.
         */
        readonly get: operations["getPlan"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/scan": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Practices that matter to egress, and gaps in enforcement; container null: the host
         * @description It needs the role read. It takes 2 tokens of the rate.
         */
        readonly get: operations["getScan"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/flows": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Flows by minute, newest first: what passed, what did not, and what decided
         * @description It needs the role read. It takes 5 tokens of the rate.
         */
        readonly get: operations["getFlows"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/known": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Destinations that are marked as known, by the owner of their container
         * @description It needs the role read.
         */
        readonly get: operations["getKnown"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/containers/{container}/known/{destination}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        /**
         * Mark a destination of a container as known: its denials raise no alert
         * @description It needs the role write.
         */
        readonly put: operations["putContainersContainerKnownDestination"];
        readonly post?: never;
        /**
         * Take this mark away
         * @description It needs the role write.
         */
        readonly delete: operations["deleteContainersContainerKnownDestination"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/suggestions/{container}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What a container was seen to use, as a list; nothing is changed
         * @description It needs the role read. It takes 10 tokens of the rate.
         */
        readonly get: operations["getSuggestionsContainer"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/suggestions": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What the containers of a Compose project were seen to use; nothing is changed
         * @description It needs the role read. It takes 10 tokens of the rate.
         */
        readonly get: operations["getSuggestions"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/events": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What happens, as it happens: server-sent events of the kinds in the description; "missed" with a count (null: not known) where events are left out
         * @description It needs the role read. The answer does not end by itself.
         */
        readonly get: operations["getEvents"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/notify": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Receivers and other outputs of events: what they got, what waits, and the last error
         * @description It needs the role read.
         */
        readonly get: operations["getNotify"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/notify/{name}/test": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Send a test message to a receiver at once; the answer has the outcome
         * @description It needs the role write.
         */
        readonly post: operations["postNotifyNameTest"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/audit": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The audit: changes and their authors, newest first
         * @description It needs the role read. It takes 5 tokens of the rate.
         */
        readonly get: operations["getAudit"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/tokens": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * All tokens, without their secrets
         * @description It needs the role admin.
         */
        readonly get: operations["getTokens"];
        readonly put?: never;
        /**
         * Create a token; its secret is only in this response
         * @description It needs the role admin. The secret in the answer is not written to a file, and not shown again.
         */
        readonly post: operations["postTokens"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/tokens/{name}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        readonly post?: never;
        /**
         * Revoke a token
         * @description It needs the role admin.
         */
        readonly delete: operations["deleteTokensName"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/nodes": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The hosts that share the store: containers, applied revision, and when each was last seen
         * @description It needs the role read.
         */
        readonly get: operations["getNodes"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/nodes/{name}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        readonly post?: never;
        /**
         * Forget a host that was removed
         * @description It needs the role admin.
         */
        readonly delete: operations["deleteNodesName"];
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/feeds": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Threat feeds: the entries of each that are in force, and its faults
         * @description It needs the role read.
         */
        readonly get: operations["getFeeds"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/feeds/{name}/sync": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Fetch a feed now; the new version is in force when the response is sent
         * @description It needs the role write.
         */
        readonly post: operations["postFeedsNameSync"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/threats/{target}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Feeds that list an address or a name, since when, in which line, and whether it is blocked
         * @description It needs the role read.
         */
        readonly get: operations["getThreatsTarget"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/export": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * All changes made through the API, as one document
         * @description It needs the role admin. It takes 10 tokens of the rate.
         */
        readonly get: operations["getExport"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/import": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Apply an exported document: all of it, or nothing
         * @description It needs the role admin.
         */
        readonly post: operations["postImport"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/sync/{owner}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        /**
         * Replace the lists of this owner: create, update, and delete those that it made before
         * @description It needs the role write.
         */
        readonly put: operations["putSyncOwner"];
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/store/accept": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Accept the store as it is, although the kernel remembers another one or a later state of it
         * @description It needs the role admin.
         */
        readonly post: operations["postStoreAccept"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/teardown": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Stop enforcing, remove everything from the kernel, and end the service
         * @description It needs the role admin.
         */
        readonly post: operations["postTeardown"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/healthz": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Whether the process answers
         * @description It needs no token.
         */
        readonly get: operations["getHealthz"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/readyz": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Whether the desired state is applied to the kernel
         * @description It needs no token.
         */
        readonly get: operations["getReadyz"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The page: what is enforced, and what needs attention
         * @description It needs the role read. It takes 2 tokens of the rate.
         */
        readonly get: operations["getPage"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/metrics": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Metrics for Prometheus: docs/monitoring.md has their table
         * @description It needs the role read. It takes 5 tokens of the rate.
         */
        readonly get: operations["getMetrics"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
}
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        readonly Status: {
            readonly version: string;
            readonly node: string;
            /** @description containers in mode enforce, whatever their coverage; a paused container is not in mode enforce */
            readonly enforced: number;
            /** @description containers in mode observe */
            readonly observed: number;
            /** @description containers in mode off */
            readonly off: number;
            readonly containers: number;
            /** @description coverage of the containers in mode enforce; the counts add up to "enforced" */
            readonly coverage: {
                readonly enforced: number;
                readonly partial: number;
                readonly unenforced: number;
            };
            /** @description containers with a drawbridge label that does not parse */
            readonly labelErrors: number;
            /** @description containers with a list that does not exist */
            readonly missingLists: number;
            readonly paused: number;
            /** @description containers that are enforced on trial */
            readonly trials: number;
            readonly trialUntil: string | null;
            /** @description observed containers that a list is evaluated for in place of their policy */
            readonly evaluated: number;
            readonly lockdown: {
                /** @description RFC 3339, UTC */
                readonly since: string;
                readonly by: string;
            } | null;
            readonly threats: {
                /** @description addresses, networks and names in force here */
                readonly entries: number;
                /** @description feeds that have a version in force */
                readonly feeds: number;
                readonly alerts: readonly string[];
            };
            readonly kernel: {
                readonly inSync: boolean;
                /** @description the same as in /readyz */
                readonly ready: boolean;
                readonly reason: string;
                readonly lastRepair: string | null;
            };
            readonly canary: {
                readonly ok: boolean | null;
                readonly at: string | null;
                readonly detail: string;
            };
            readonly connections: {
                /** @description connections that asked for a name that no entry permits, or for none */
                readonly refused: number;
                /** @description packets that were checked */
                readonly queued: number;
                /** @description of these, packets that went on */
                readonly released: number;
                /** @description of these, repetitions, those of refused connections, and what could not be read */
                readonly dropped: number;
                /** @description dropped because a container, or all together, had too much that was not decided */
                readonly beyondBounds: number;
                /** @description dropped because of an error of Drawbridge, which is in its log */
                readonly faults: number;
                /** @description packets that wait now */
                readonly waiting: number;
                /** @description dropped by the kernel because the queue was full */
                readonly queueFull: number;
            } | null;
            readonly store: {
                readonly kind: string;
                readonly ok: boolean;
                readonly detail: string;
                /** @description changes in force that could not be stored */
                readonly unwritten: readonly {
                    readonly key: string;
                    readonly action: string;
                    readonly target: string;
                    /** @description RFC 3339, UTC */
                    readonly since: string;
                    readonly note: string;
                }[];
            };
            readonly fleet: {
                readonly nodes: number;
                readonly stale: readonly string[];
            };
            /** @description what is set by command for owners of which this host has no container */
            readonly kept: {
                readonly modes: number;
                /** @description without end */
                readonly grants: number;
                /** @description those with other services first; 100 at most */
                readonly owners: readonly {
                    /** @description compose:PROJECT/SERVICE or name:NAME */
                    readonly owner: string;
                    /** @description its Compose project has containers of other services: it was renamed or removed, and is not just stopped */
                    readonly hasProject: boolean;
                    readonly mode: ("enforce" | "observe" | "off") | null;
                    readonly grants: readonly {
                        readonly id: string;
                        readonly entry: string;
                    }[];
                }[];
            };
            readonly warnings: readonly string[];
        };
        readonly Grant: {
            readonly id: string;
            /** @description the entry in canonical form */
            readonly entry: string;
            /** @description compose:PROJECT/SERVICE or name:NAME (open-ended), id:CONTAINER (timed) */
            readonly owner: string;
            /** @description the host of the container (timed) */
            readonly node?: string;
            /** @description RFC 3339, UTC */
            readonly created: string;
            readonly expires: string | null;
        };
        readonly Container: {
            readonly id: string;
            readonly name: string;
            readonly image: string;
            readonly mode: "enforce" | "observe" | "off";
            /** @description the source of the mode, in a word */
            readonly modeFrom: string;
            /** @description the source of the mode */
            readonly modeSource: {
                readonly kind: "api" | "label" | "broken label" | "has entries" | "default" | "pause" | "lockdown" | "store in doubt" | "unattributed" | "claim";
                readonly name: string | null;
            };
            readonly coverage: {
                readonly state: "enforced" | "partial" | "unenforced";
                readonly reasons: readonly string[];
            };
            /** @description the reasons of coverage in the same order, with code, state and remedy */
            readonly findings: readonly {
                readonly code: string;
                readonly state: "enforced" | "partial" | "unenforced";
                readonly detail: string;
                readonly remedy: string;
            }[];
            readonly compose: {
                readonly project: string;
                readonly service: string;
            } | null;
            readonly addresses: readonly string[];
            readonly lists: readonly string[];
            readonly entries: readonly {
                readonly entry: string;
                /** @description where it is written, in words */
                readonly from: string;
                /** @description where it is written */
                readonly source: {
                    readonly kind: "label" | "list" | "claim" | "baseline" | "grant";
                    readonly name: string | null;
                };
                readonly addresses: readonly string[];
                /** @description connections that it permitted, or attempts that it denied */
                readonly count: number;
                /** @description of these, in both directions */
                readonly packets: number;
                /** @description of these, in both directions, with IP headers */
                readonly bytes: number;
            }[];
            readonly grants: readonly components["schemas"]["Grant"][];
            readonly pausedUntil: string | null;
            readonly trialUntil: string | null;
            readonly against: {
                readonly list: string;
                /** @description RFC 3339, UTC */
                readonly since: string;
            } | null;
            readonly limits: string | null;
            readonly quota: {
                readonly bytes: number;
                readonly used: number;
                readonly reached: boolean;
                /** @description RFC 3339, UTC */
                readonly until: string;
            } | null;
            /** @description connections that passed; while it is observed, those that enforce would let pass */
            readonly allowed: number;
            /** @description attempts that did not pass */
            readonly denied: number;
            /** @description connections and lookups that passed only because it was observed, or the feed is watched */
            readonly wouldDeny: number;
        };
        readonly GrantRequest: {
            /** @description one entry */
            readonly entry: string;
            /** @description duration; left out: until revoked */
            readonly for?: string;
        };
        readonly Durability: {
            /** @description false: in force from memory, because the store could not be written */
            readonly durable: boolean;
            readonly note: string | null;
        };
        readonly ModeRequest: {
            /** @description auto: labels, claims and the default decide; confirm: a trial becomes mode enforce for good */
            readonly mode: "enforce" | "observe" | "off" | "auto" | "confirm";
            /** @description of enforce: after this duration, what was set before counts again */
            readonly trial?: string;
            /** @description of observe: the list that is evaluated in place of the policy, without being enforced */
            readonly against?: string;
        };
        readonly Preview: {
            readonly container: string;
            /** @description all running containers of this owner, for which the mode would count */
            readonly containers: readonly string[];
            /** @description the owner of the record: compose:PROJECT/SERVICE or name:NAME */
            readonly owner: string;
            readonly mode: "enforce" | "observe" | "off";
            /** @description the mode that is previewed */
            readonly to: "enforce" | "observe" | "off";
            readonly against: string | null;
            readonly recordingSince: string | null;
            /** @description earlier times during which it ran and was not recorded */
            readonly gaps: readonly {
                /** @description RFC 3339, UTC */
                readonly from: string;
                /** @description RFC 3339, UTC */
                readonly to: string;
                readonly reason: string;
            }[];
            /** @description connections that were not recorded */
            readonly dropped: number;
            readonly notRecorded: readonly string[];
            /** @description the most recent first */
            readonly destinations: readonly {
                readonly entry: string | null;
                readonly kind: "name" | "address" | "neighbour" | "host" | "published";
                readonly name: string | null;
                /** @description empty where a name was only resolved */
                readonly address: string;
                /** @description 0: the protocol has none */
                readonly port: number;
                /** @description tcp, udp, icmp or a number; dns: a name that was only resolved */
                readonly proto: string;
                /** @description RFC 3339, UTC */
                readonly first: string;
                /** @description RFC 3339, UTC */
                readonly last: string;
                readonly count: number;
                /** @constant */
                readonly verdict: "would-deny";
            }[];
            /** @description connections open now that mode enforce would end */
            readonly flows: readonly {
                readonly proto: string;
                readonly address: string;
                readonly port: number;
                readonly name: string | null;
                readonly entry: string | null;
                /** @description the container that opened it */
                readonly container: string;
                /** @description a new connection to it passes */
                readonly passesAgain: boolean;
            }[];
        };
        readonly ModeSetting: {
            /** @description the mode in force */
            readonly mode: "enforce" | "observe" | "off";
            /** @description the source of the mode, in a word */
            readonly modeFrom: string;
            /** @description the source of the mode */
            readonly modeSource: {
                readonly kind: "api" | "label" | "broken label" | "has entries" | "default" | "pause" | "lockdown" | "store in doubt" | "unattributed" | "claim";
                readonly name: string | null;
            };
            /** @description the owner of a mode that is set: compose:PROJECT/SERVICE or name:NAME */
            readonly owner: string;
            readonly set: ("enforce" | "observe" | "off") | null;
        };
        readonly ModesRequest: {
            readonly containers: readonly string[];
            /** @description auto: labels, claims and the default decide; confirm: a trial becomes mode enforce for good */
            readonly mode: "enforce" | "observe" | "off" | "auto" | "confirm";
            /** @description of enforce: after this duration, what was set before counts again */
            readonly trial?: string;
            /** @description of observe: the list that is evaluated in place of the policy, without being enforced */
            readonly against?: string;
        };
        readonly Modes: {
            /** @description those of the request, in its order */
            readonly containers: readonly components["schemas"]["Container"][];
        };
        readonly PauseRequest: {
            /** @description duration */
            readonly for: string;
        };
        readonly Pause: {
            /** @description false: in force from memory, because the store could not be written */
            readonly durable: boolean;
            readonly note: string | null;
            /** @description the host of the container */
            readonly node?: string;
            /** @description id:CONTAINER, or all */
            readonly owner: string;
            /** @description RFC 3339, UTC */
            readonly created: string;
            /** @description RFC 3339, UTC */
            readonly expires: string;
            /** @description the author of the pause */
            readonly by: string;
        };
        readonly Lockdown: {
            readonly on: boolean;
            readonly since: string | null;
            readonly by: string | null;
            /** @description false: in force from memory, because the store could not be written */
            readonly durable: boolean;
            readonly note: string | null;
        };
        readonly LockdownRequest: {
            readonly on: boolean;
        };
        readonly List: {
            readonly description?: string;
            /** @description globs of the hosts (node) where this list applies; missing: on all hosts */
            readonly hosts?: readonly string[];
            /** @description containers that this list claims; all given fields must match */
            readonly match?: {
                /** @description a glob: * matches any characters, ? matches one */
                readonly name?: string;
                /** @description a glob: * matches any characters, ? matches one */
                readonly image?: string;
                readonly labels?: {
                    readonly [key: string]: string;
                };
                /** @description a glob: * matches any characters, ? matches one */
                readonly network?: string;
            };
            readonly mode?: "enforce" | "observe" | "off";
            /** @description of the containers that this list claims, while they are enforced: what no entry permits waits so long for the decision of a person */
            readonly ask?: string;
            readonly allow: readonly (string | {
                /** @description a destination: name, address, container:NAME, host, any or list:NAME; with ! before it, it is denied */
                readonly to: string;
                readonly ports?: (number | string) | readonly (number | string)[];
                readonly proto?: string;
                /** @description denies what it covers, whatever other entries permit; it takes no flags */
                readonly deny?: boolean;
                /** @description answers with private addresses are accepted */
                readonly private?: boolean;
                /** @description allows a public suffix or a very wide network */
                readonly broad?: boolean;
                readonly tls?: ("off" | false) | "verify";
                /** @constant */
                readonly quic?: "deny";
                /** @constant */
                readonly ech?: "allow";
                /** @constant */
                readonly dns?: "direct";
                readonly comment?: string;
                /** @description RFC 3339 UTC */
                readonly expires?: string;
            })[];
            /** @description what the entries must permit and deny; drawbridge check runs them */
            readonly tests?: readonly ({
                /** @description one name or address, container:NAME or host, with :PORT and /PROTO (without a port: 443/tcp) */
                readonly allow: string;
            } | {
                /** @description one name or address, container:NAME or host, with :PORT and /PROTO (without a port: 443/tcp) */
                readonly deny: string;
            })[];
            readonly name: string;
            readonly source: "folder" | "store";
            /** @description the file of a folder list */
            readonly file?: string;
            /** @description revision in the store; 0 for a folder list */
            readonly revision: number;
            readonly usedBy: readonly string[];
            /** @description false: an entry was removed in memory only, because the store could not be written */
            readonly durable?: boolean;
            /** @description why it is not stored, and the consequence */
            readonly note?: string;
        };
        /** @description a Drawbridge allowlist */
        readonly ListRequest: {
            readonly description?: string;
            /** @description globs of the hosts (node) where this list applies; missing: on all hosts */
            readonly hosts?: readonly string[];
            /** @description containers that this list claims; all given fields must match */
            readonly match?: {
                /** @description a glob: * matches any characters, ? matches one */
                readonly name?: string;
                /** @description a glob: * matches any characters, ? matches one */
                readonly image?: string;
                readonly labels?: {
                    readonly [key: string]: string;
                };
                /** @description a glob: * matches any characters, ? matches one */
                readonly network?: string;
            };
            readonly mode?: "enforce" | "observe" | "off";
            /** @description of the containers that this list claims, while they are enforced: what no entry permits waits so long for the decision of a person */
            readonly ask?: string;
            /** @description entries, as text or as objects */
            readonly allow?: readonly (string | {
                /** @description a destination: name, address, container:NAME, host, any or list:NAME; with ! before it, it is denied */
                readonly to: string;
                readonly ports?: (number | string) | readonly (number | string)[];
                readonly proto?: string;
                /** @description denies what it covers, whatever other entries permit; it takes no flags */
                readonly deny?: boolean;
                /** @description answers with private addresses are accepted */
                readonly private?: boolean;
                /** @description allows a public suffix or a very wide network */
                readonly broad?: boolean;
                readonly tls?: ("off" | false) | "verify";
                /** @constant */
                readonly quic?: "deny";
                /** @constant */
                readonly ech?: "allow";
                /** @constant */
                readonly dns?: "direct";
                readonly comment?: string;
                /** @description RFC 3339 UTC */
                readonly expires?: string;
            })[];
            /** @description what the entries must permit and deny; drawbridge check runs them */
            readonly tests?: readonly ({
                /** @description one name or address, container:NAME or host, with :PORT and /PROTO (without a port: 443/tcp) */
                readonly allow: string;
            } | {
                /** @description one name or address, container:NAME or host, with :PORT and /PROTO (without a port: 443/tcp) */
                readonly deny: string;
            })[];
        };
        readonly Ask: {
            readonly id: string;
            /** @description name of the container */
            readonly container: string;
            readonly containerId: string;
            readonly name: string | null;
            /** @description empty: a query for the name, of which no address is known yet */
            readonly address: string;
            /** @description all that it was asked for, 8 at most */
            readonly addresses: readonly string[];
            /** @description 0: a query for a name */
            readonly port: number;
            readonly proto: "tcp" | "udp" | "dns";
            /** @description what is granted if it is allowed */
            readonly entry: string;
            /** @description RFC 3339, UTC */
            readonly since: string;
            /** @description time of the newest attempt, RFC 3339, UTC */
            readonly last: string;
            readonly until: string | null;
            /** @description packets and queries that wait now */
            readonly waiting: number;
            readonly attempts: number;
            /** @description changes with everything that is shown; a decision needs it */
            readonly token: string;
        };
        readonly AskDecision: {
            readonly decision: "allow" | "deny";
            /** @description of the request as it was shown */
            readonly token: string;
            /** @description how long a grant lasts; default: 10m */
            readonly for?: string;
            /** @description a grant for 1m: enough for what waits now */
            readonly once?: boolean;
            /** @description allow it for good: the list of the store, which the container uses, that gets the entry */
            readonly list?: string;
        };
        readonly AskDecided: {
            readonly id: string;
            readonly container: string;
            readonly entry: string;
            readonly decision: "allow" | "deny";
            readonly grant: string | null;
            readonly expires: string | null;
            readonly list: string | null;
        };
        readonly Explanation: {
            readonly container: string;
            readonly to: string;
            readonly verdict: "allow" | "deny" | "threat";
            readonly reason: string;
            readonly entry: string | null;
            readonly list: string | null;
            readonly feed: string | null;
            readonly remedy: string | null;
            readonly lasting: string | null;
            readonly warning: string | null;
            readonly coverage: string | null;
            readonly trace: readonly string[];
        };
        readonly Scan: {
            readonly container: string | null;
            readonly image: string | null;
            readonly findings: readonly {
                readonly kind: "coverage" | "practice" | "host";
                readonly code: string;
                readonly state: "enforced" | "partial" | "unenforced";
                readonly detail: string;
                readonly remedy: string;
            }[];
        };
        readonly Flow: {
            /** @description of the first connection of this record */
            readonly time: string;
            /** @description of the last one, at most a minute later */
            readonly last: string;
            /** @description the name of the container */
            readonly container: string;
            /** @description survives recreation: compose:PROJECT/SERVICE or name:NAME */
            readonly owner: string;
            readonly verdict: "allow" | "deny" | "would-deny" | "threat" | "ask";
            /** @description tcp, udp, icmp, a number, or dns: a name that was only resolved */
            readonly proto: string;
            /** @description empty where a name was only resolved */
            readonly address: string;
            /** @description 0: the protocol has none */
            readonly port: number;
            readonly name: string | null;
            /** @description why */
            readonly reason: string;
            readonly entry: string | null;
            readonly list: string | null;
            readonly feed: string | null;
            /** @description of both directions; of a denial: those that were logged */
            readonly packets: number;
            /** @description of both directions, with IP headers */
            readonly bytes: number;
            /** @description connections, or queries for the name */
            readonly count: number;
        };
        readonly Flows: {
            /** @description the newest first, by `time` */
            readonly items: readonly components["schemas"]["Flow"][];
            readonly next: string | null;
            readonly container: {
                /** @description under which its flows are */
                readonly name: string;
                /** @description that have or had this name; 1 if asked by id */
                readonly containers: number;
                readonly since: string | null;
            } | null;
            /** @description the oldest time of which records are kept */
            readonly recordingSince: string;
            readonly recordedUntil: string | null;
            /** @description times since then of which nothing is recorded, or not all is kept */
            readonly gaps: readonly {
                /** @description RFC 3339, UTC */
                readonly from: string;
                /** @description RFC 3339, UTC */
                readonly to: string;
                readonly reason: string;
            }[];
            /** @description flows that are in no record, of all containers */
            readonly dropped: number;
        };
        readonly KnownDestination: {
            /** @description survives recreation: compose:PROJECT/SERVICE or name:NAME */
            readonly owner: string;
            /** @description a name or an address; * and ? match in it */
            readonly target: string;
            readonly port: number | null;
        };
        readonly AuditRecord: {
            /** @description RFC 3339, UTC */
            readonly time: string;
            /** @description the host that made the change */
            readonly node?: string;
            readonly who: string;
            readonly action: string;
            readonly target: string;
            /** @description null: no previous value */
            readonly before: unknown;
            /** @description null: no value now */
            readonly after: unknown;
            readonly outcome: "done" | "undone" | "refused" | "unknown";
            /** @description the record's number in the files of its host */
            readonly n?: number;
            /** @description of its line in the audit file: the chain of docs/audit.md */
            readonly hash?: string;
            /** @description of the whole values, if before and after are shortened */
            readonly sha256?: {
                readonly before: string | null;
                readonly after: string | null;
            };
            /** @description true: the disk was full, and the record was written later */
            readonly late?: boolean;
            /** @description its key in the store of an older version */
            readonly from?: string;
        };
        readonly Token: {
            readonly name: string;
            readonly role: "read" | "write" | "admin";
            readonly source: "store" | "config";
            readonly created: string | null;
            readonly expires: string | null;
            readonly by: string | null;
        };
        readonly TokenRequest: {
            /** @description the name of the token */
            readonly name: string;
            readonly role: "read" | "write" | "admin";
            /** @description duration; left out: until revoked */
            readonly for?: string;
        };
        readonly NewToken: {
            readonly name: string;
            readonly role: "read" | "write" | "admin";
            readonly source: "store" | "config";
            readonly created: string | null;
            readonly expires: string | null;
            readonly by: string | null;
            /** @description the secret, which is not shown again */
            readonly token: string;
        };
        readonly Node: {
            readonly node: string;
            readonly state: "ok" | "out of sync" | "stale";
            /** @description version of Drawbridge on the host */
            readonly version: string;
            /** @description revision of the store up to which its changes are applied to the kernel of the host */
            readonly revision: number;
            readonly inSync: boolean;
            readonly containers: number;
            /** @description containers in mode enforce */
            readonly enforced: number;
            readonly fullyEnforced: number | null;
            readonly observed: number;
            /** @description containers with partial coverage, in every mode */
            readonly partial: number;
            readonly unenforced: number;
            /** @description RFC 3339, UTC */
            readonly lastSeen: string;
        };
        readonly Feed: {
            readonly name: string;
            /** @description URL without credentials and query */
            readonly url: string;
            readonly format: string;
            readonly action: "block" | "observe";
            readonly direction: "outbound" | "inbound" | "both";
            readonly everySeconds: number;
            readonly status: "never" | "current" | "refused" | "failed" | "later" | "left-out";
            readonly reason: string | null;
            readonly remedy: string | null;
            /** @description entries of the version in force */
            readonly entries: number;
            /** @description names among the entries */
            readonly names: number;
            readonly loaded: string | null;
            readonly confirmed: string | null;
            readonly attempted: string | null;
            readonly next: string | null;
            /** @description consecutive attempts that brought no version */
            readonly failures: number;
            readonly lines: {
                readonly bad: {
                    readonly count: number;
                    /** @description the first lines */
                    readonly samples: readonly {
                        readonly line: number;
                        readonly text: string;
                        readonly reason: string;
                    }[];
                };
                readonly unsupported: {
                    readonly count: number;
                    /** @description the first lines */
                    readonly samples: readonly {
                        readonly line: number;
                        readonly text: string;
                        readonly reason: string;
                    }[];
                };
                readonly skipped: {
                    readonly count: number;
                    /** @description the first lines */
                    readonly samples: readonly {
                        readonly line: number;
                        readonly text: string;
                        readonly reason: string;
                    }[];
                };
                readonly suffixes: {
                    readonly count: number;
                    /** @description the first lines */
                    readonly samples: readonly {
                        readonly line: number;
                        readonly text: string;
                        readonly reason: string;
                    }[];
                };
            };
            /** @description listed destinations that no feed may block */
            readonly spared: readonly {
                readonly label: string;
                readonly lines: number;
                readonly line: number;
                readonly listed: string;
            }[];
            /** @description shared ranges: withheld if listed as a whole, reported if a small part is listed */
            readonly known: readonly {
                readonly label: string;
                readonly withheld: number;
                readonly inside: number;
            }[];
        };
        readonly FeedSyncRequest: {
            /** @description accept the next version whatever its size and bad lines (role admin) */
            readonly accept?: boolean;
            /** @description try the feed only if its schedule is due */
            readonly onlyDue?: boolean;
        };
        readonly FeedSync: {
            readonly outcome: "attempted" | "not-due" | "too-soon" | "busy";
            readonly feed: components["schemas"]["Feed"];
        };
        readonly Threat: {
            readonly query: string;
            /** @description the target in canonical form */
            readonly target: string;
            readonly verdict: "block" | "observe" | "none";
            readonly hits: readonly {
                readonly feed: string;
                readonly action: "block" | "observe";
                readonly direction: "outbound" | "inbound" | "both";
                /** @description the range or name as it is listed */
                readonly listed: string;
                readonly line: number;
                readonly positions: "line" | "item";
                /** @description RFC 3339, UTC */
                readonly since: string;
                readonly spared: string | null;
            }[];
        };
        readonly Export: {
            readonly lists?: {
                readonly [key: string]: {
                    readonly description?: string;
                    /** @description globs of the hosts (node) where this list applies; missing: on all hosts */
                    readonly hosts?: readonly string[];
                    /** @description containers that this list claims; all given fields must match */
                    readonly match?: {
                        /** @description a glob: * matches any characters, ? matches one */
                        readonly name?: string;
                        /** @description a glob: * matches any characters, ? matches one */
                        readonly image?: string;
                        readonly labels?: {
                            readonly [key: string]: string;
                        };
                        /** @description a glob: * matches any characters, ? matches one */
                        readonly network?: string;
                    };
                    readonly mode?: "enforce" | "observe" | "off";
                    /** @description of the containers that this list claims, while they are enforced: what no entry permits waits so long for the decision of a person */
                    readonly ask?: string;
                    /** @description entries, as text or as objects */
                    readonly allow?: readonly (string | {
                        /** @description a destination: name, address, container:NAME, host, any or list:NAME; with ! before it, it is denied */
                        readonly to: string;
                        readonly ports?: (number | string) | readonly (number | string)[];
                        readonly proto?: string;
                        /** @description denies what it covers, whatever other entries permit; it takes no flags */
                        readonly deny?: boolean;
                        /** @description answers with private addresses are accepted */
                        readonly private?: boolean;
                        /** @description allows a public suffix or a very wide network */
                        readonly broad?: boolean;
                        readonly tls?: ("off" | false) | "verify";
                        /** @constant */
                        readonly quic?: "deny";
                        /** @constant */
                        readonly ech?: "allow";
                        /** @constant */
                        readonly dns?: "direct";
                        readonly comment?: string;
                        /** @description RFC 3339 UTC */
                        readonly expires?: string;
                    })[];
                    /** @description what the entries must permit and deny; drawbridge check runs them */
                    readonly tests?: readonly ({
                        /** @description one name or address, container:NAME or host, with :PORT and /PROTO (without a port: 443/tcp) */
                        readonly allow: string;
                    } | {
                        /** @description one name or address, container:NAME or host, with :PORT and /PROTO (without a port: 443/tcp) */
                        readonly deny: string;
                    })[];
                };
            };
            readonly modes?: {
                readonly [key: string]: "enforce" | "observe" | "off";
            };
            readonly grants?: readonly {
                readonly owner: string;
                readonly entry: string;
            }[];
            readonly tokens?: readonly {
                readonly [key: string]: string;
            }[];
        };
        readonly PlannedChanges: {
            readonly dryRun: boolean;
            readonly replace?: boolean;
            readonly changes: readonly {
                readonly action: "create" | "update" | "delete";
                readonly kind: "list" | "mode" | "grant" | "token" | "sync";
                readonly name: string;
            }[];
        };
        readonly SyncRequest: {
            /** @description bodies of lists, by name */
            readonly lists: {
                readonly [key: string]: unknown;
            };
        };
        readonly Health: {
            readonly ok: boolean;
        };
        readonly Readiness: {
            readonly ready: boolean;
            readonly reason: string;
        };
        /** @description problem details (RFC 9457) */
        readonly Problem: {
            /** @description the kind of problem, a reference into /docs */
            readonly type: string;
            readonly title: string;
            readonly status: number;
            readonly detail: string;
            readonly errors: readonly {
                readonly detail: string;
                /** @description what to do */
                readonly remedy: string;
                /** @description JSON pointer into the body (RFC 6901) */
                readonly pointer?: string;
                readonly file?: string;
                readonly line?: number;
                readonly column?: number;
            }[];
        };
    };
    responses: {
        /** @description bad-request: Bad request */
        readonly Problem400: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description unauthorized: A bearer token is required */
        readonly Problem401: {
            headers: {
                /** @description the scheme Bearer */
                readonly "WWW-Authenticate"?: string;
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description forbidden: The role of the token does not permit this */
        readonly Problem403: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description not-found: Not found */
        readonly Problem404: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description method: Method not allowed */
        readonly Problem405: {
            headers: {
                /** @description the methods of the path */
                readonly Allow?: string;
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description timeout: Request timeout */
        readonly Problem408: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description conflict: Conflict with the current state; read-only: Read-only through the API */
        readonly Problem409: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description precondition: Changed by another client meanwhile */
        readonly Problem412: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description too-large: Too large */
        readonly Problem413: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description media-type: The body is not JSON */
        readonly Problem415: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description expectation: Expectation failed */
        readonly Problem417: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description invalid: Invalid content */
        readonly Problem422: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description too-many: Too many requests */
        readonly Problem429: {
            headers: {
                /** @description seconds to wait */
                readonly "Retry-After"?: number;
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description header-too-large: Request header too large */
        readonly Problem431: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description internal: Internal error of the service */
        readonly Problem500: {
            headers: {
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description not-in-force: Not in force, and undone; closed: The service runs closed; unavailable: Not available now */
        readonly Problem503: {
            headers: {
                /** @description seconds to wait */
                readonly "Retry-After"?: number;
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
    };
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type $defs = Record<string, never>;
export interface operations {
    readonly getStatus: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Status"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getContainers: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: {
                /** @description the ETag of an earlier answer; 304 when the answer is the same */
                readonly "If-None-Match"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["Container"][];
                        readonly next: string | null;
                    };
                };
            };
            /** @description the client has this answer already */
            readonly 304: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getContainersContainer: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description id, name or id prefix */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Container"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly postContainersContainerGrants: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description id, name or id prefix */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["GrantRequest"];
            };
        };
        readonly responses: {
            /** @description created */
            readonly 201: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Grant"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly deleteContainersContainerGrantsGrant: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description id, name or id prefix, or an owner, such as compose:shop/web, of which no container is left */
                readonly container: string;
                /** @description id of the grant */
                readonly grant: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Durability"];
                };
            };
            /** @description done; there is no body */
            readonly 204: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getContainersContainerMode: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description id, name or id prefix */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ModeSetting"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly putContainersContainerMode: {
        readonly parameters: {
            readonly query?: {
                /** @description change nothing, and return what the mode would deny */
                readonly dryRun?: "true" | "false";
            };
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
                /** @description the ETag of the state that the change is made for; 412 when it is another one */
                readonly "If-Match"?: string;
                /** @description *: only when there is none yet; 412 when there is one */
                readonly "If-None-Match"?: string;
            };
            readonly path: {
                /** @description id, name or id prefix */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["ModeRequest"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Container"] | components["schemas"]["Preview"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly putModes: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["ModesRequest"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Modes"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getContainersContainerPreview: {
        readonly parameters: {
            readonly query?: {
                /** @description what this list would deny in place of the policy */
                readonly against?: string;
            };
            readonly header?: never;
            readonly path: {
                /** @description id, name or id prefix */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Preview"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly postContainersContainerPause: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description id, name or id prefix */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["PauseRequest"];
            };
        };
        readonly responses: {
            /** @description created */
            readonly 201: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Pause"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly deleteContainersContainerPause: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description id, name or id prefix */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Durability"];
                };
            };
            /** @description done; there is no body */
            readonly 204: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly postPause: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["PauseRequest"];
            };
        };
        readonly responses: {
            /** @description created */
            readonly 201: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Pause"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly deletePause: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Durability"];
                };
            };
            /** @description done; there is no body */
            readonly 204: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getLockdown: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Lockdown"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly putLockdown: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["LockdownRequest"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Lockdown"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getLists: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["List"][];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getListsName: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description the name of a list */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["List"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly putListsName: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
                /** @description the ETag of the state that the change is made for; 412 when it is another one */
                readonly "If-Match"?: string;
                /** @description *: only when there is none yet; 412 when there is one */
                readonly "If-None-Match"?: string;
            };
            readonly path: {
                /** @description the name of a list */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["ListRequest"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["List"];
                };
            };
            /** @description created */
            readonly 201: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["List"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly deleteListsName: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
                /** @description the ETag of the state that the change is made for; 412 when it is another one */
                readonly "If-Match"?: string;
                /** @description *: only when there is none yet; 412 when there is one */
                readonly "If-None-Match"?: string;
            };
            readonly path: {
                /** @description the name of a list */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done; there is no body */
            readonly 204: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly postListsNameEntries: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
                /** @description the ETag of the state that the change is made for; 412 when it is another one */
                readonly "If-Match"?: string;
                /** @description *: only when there is none yet; 412 when there is one */
                readonly "If-None-Match"?: string;
            };
            readonly path: {
                /** @description the name of a list */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": {
                    /** @description one entry as text */
                    readonly entry: string;
                } | {
                    /** @description a destination: name, address, container:NAME, host, any or list:NAME; with ! before it, it is denied */
                    readonly to: string;
                    readonly ports?: (number | string) | readonly (number | string)[];
                    readonly proto?: string;
                    /** @description denies what it covers, whatever other entries permit; it takes no flags */
                    readonly deny?: boolean;
                    /** @description answers with private addresses are accepted */
                    readonly private?: boolean;
                    /** @description allows a public suffix or a very wide network */
                    readonly broad?: boolean;
                    readonly tls?: ("off" | false) | "verify";
                    /** @constant */
                    readonly quic?: "deny";
                    /** @constant */
                    readonly ech?: "allow";
                    /** @constant */
                    readonly dns?: "direct";
                    readonly comment?: string;
                    /** @description RFC 3339 UTC */
                    readonly expires?: string;
                };
            };
        };
        readonly responses: {
            /** @description created */
            readonly 201: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["List"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly deleteListsNameEntriesEntry: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
                /** @description the ETag of the state that the change is made for; 412 when it is another one */
                readonly "If-Match"?: string;
                /** @description *: only when there is none yet; 412 when there is one */
                readonly "If-None-Match"?: string;
            };
            readonly path: {
                /** @description the name of a list */
                readonly name: string;
                /** @description the canonical text, percent-encoded */
                readonly entry: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["List"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getAsks: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["Ask"][];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly postAsksId: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description id of the request */
                readonly id: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["AskDecision"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["AskDecided"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getExplain: {
        readonly parameters: {
            readonly query: {
                /** @description id or name */
                readonly container: string;
                /** @description a destination */
                readonly to: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Explanation"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getPlan: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly string[];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getScan: {
        readonly parameters: {
            readonly query?: {
                /** @description id or name */
                readonly container?: string;
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: {
                /** @description the ETag of an earlier answer; 304 when the answer is the same */
                readonly "If-None-Match"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["Scan"][];
                        readonly next: string | null;
                    };
                };
            };
            /** @description the client has this answer already */
            readonly 304: {
                headers: {
                    /** @description for If-Match and If-None-Match */
                    readonly ETag?: string;
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getFlows: {
        readonly parameters: {
            readonly query?: {
                /** @description id or name, also of a removed container; PROJECT/SERVICE of one that does not run */
                readonly container?: string;
                /** @description a Compose project: all its containers, also those that are gone; not with container */
                readonly project?: string;
                /** @description allow, deny, would-deny, threat, ask, with commas; denied: deny, would-deny, threat; default: all */
                readonly verdict?: string;
                /** @description a name, or an address without one; * and ? match in it */
                readonly name?: string;
                /** @description RFC 3339 in UTC, or a duration before now */
                readonly since?: string;
                /** @description 1 to 9999; default 100 */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Flows"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getKnown: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["KnownDestination"][];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly putContainersContainerKnownDestination: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description id or name */
                readonly container: string;
                /** @description a name or an address, with * and ?, and :PORT for one port only */
                readonly destination: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["KnownDestination"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly deleteContainersContainerKnownDestination: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description id or name */
                readonly container: string;
                /** @description a name or an address, with * and ?, and :PORT for one port only */
                readonly destination: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["KnownDestination"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getSuggestionsContainer: {
        readonly parameters: {
            readonly query?: {
                /** @description default: json, or yaml with Accept: application/yaml */
                readonly format?: "json" | "yaml" | "list" | "label" | "compose";
                /** @description only what was used within this time */
                readonly since?: string;
                /** @description entries that were not used for this time are to be removed; default: 30d */
                readonly unused?: string;
                /** @description suggest what is denied now as well */
                readonly includeDenied?: "true" | "false";
            };
            readonly header?: never;
            readonly path: {
                /** @description id, name or id prefix; of a container that is gone: its name, or PROJECT/SERVICE */
                readonly container: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description the suggestion */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly container: string;
                        /** @description the owner of the record: compose:PROJECT/SERVICE or name:NAME */
                        readonly owner: string;
                        readonly since: string | null;
                        readonly starts: number;
                        readonly stable: {
                            readonly since: string | null;
                            readonly for: string | null;
                            /** @description starts since then, at least */
                            readonly starts: number;
                            /** @description recorded for a day, or over ten starts */
                            readonly enough: boolean;
                            readonly text: string;
                        };
                        /** @description in force now; enforce while it is paused, and of a container that is gone */
                        readonly mode: "enforce" | "observe" | "off";
                        /** @description all that it used is left out: decide about that first */
                        readonly reachesNothing: boolean;
                        readonly entries: readonly {
                            readonly entry: string;
                            readonly comment: string;
                            readonly count: number;
                            readonly first: string | null;
                            readonly last: string | null;
                            /** @description starts of the container in which it was seen, at least */
                            readonly starts: number;
                            readonly risk: string | null;
                        }[];
                        /** @description lists that permit several of the destinations, or that its labels name */
                        readonly lists: readonly {
                            readonly list: string;
                            readonly comment: string;
                            readonly covers: readonly string[];
                        }[];
                        /** @description lists that permit several of the destinations, and more than what was used warrants */
                        readonly offered: readonly {
                            readonly list: string;
                            readonly size: number;
                            readonly covers: readonly string[];
                        }[];
                        /** @description what was seen and is not suggested */
                        readonly left: readonly {
                            /** @description the entry that would permit it, or the destination where no entry can */
                            readonly entry: string;
                            readonly why: string;
                            /** @description decide: it was used; add: nothing shows that it is needed; none: no entry is offered */
                            readonly action: "decide" | "add" | "none";
                            readonly count: number;
                            readonly first: string | null;
                            readonly last: string | null;
                            /** @description starts of the container in which it was seen, at least */
                            readonly starts: number;
                        }[];
                        /** @description entries of its labels and grants that were not used */
                        readonly remove: readonly {
                            readonly entry: string;
                            readonly from: string;
                            /** @description RFC 3339, UTC */
                            readonly unusedSince: string;
                        }[];
                        readonly notes: readonly string[];
                    };
                    readonly "application/yaml": string;
                    readonly "text/plain": string;
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getSuggestions: {
        readonly parameters: {
            readonly query: {
                /** @description default: json, or yaml with Accept: application/yaml */
                readonly format?: "json" | "yaml" | "list" | "label" | "compose";
                /** @description only what was used within this time */
                readonly since?: string;
                /** @description entries that were not used for this time are to be removed; default: 30d */
                readonly unused?: string;
                /** @description suggest what is denied now as well */
                readonly includeDenied?: "true" | "false";
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
                /** @description a Compose project */
                readonly project: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description a suggestion for each service */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly {
                            readonly container: string;
                            /** @description the owner of the record: compose:PROJECT/SERVICE or name:NAME */
                            readonly owner: string;
                            readonly since: string | null;
                            readonly starts: number;
                            readonly stable: {
                                readonly since: string | null;
                                readonly for: string | null;
                                /** @description starts since then, at least */
                                readonly starts: number;
                                /** @description recorded for a day, or over ten starts */
                                readonly enough: boolean;
                                readonly text: string;
                            };
                            /** @description in force now; enforce while it is paused, and of a container that is gone */
                            readonly mode: "enforce" | "observe" | "off";
                            /** @description all that it used is left out: decide about that first */
                            readonly reachesNothing: boolean;
                            readonly entries: readonly {
                                readonly entry: string;
                                readonly comment: string;
                                readonly count: number;
                                readonly first: string | null;
                                readonly last: string | null;
                                /** @description starts of the container in which it was seen, at least */
                                readonly starts: number;
                                readonly risk: string | null;
                            }[];
                            /** @description lists that permit several of the destinations, or that its labels name */
                            readonly lists: readonly {
                                readonly list: string;
                                readonly comment: string;
                                readonly covers: readonly string[];
                            }[];
                            /** @description lists that permit several of the destinations, and more than what was used warrants */
                            readonly offered: readonly {
                                readonly list: string;
                                readonly size: number;
                                readonly covers: readonly string[];
                            }[];
                            /** @description what was seen and is not suggested */
                            readonly left: readonly {
                                /** @description the entry that would permit it, or the destination where no entry can */
                                readonly entry: string;
                                readonly why: string;
                                /** @description decide: it was used; add: nothing shows that it is needed; none: no entry is offered */
                                readonly action: "decide" | "add" | "none";
                                readonly count: number;
                                readonly first: string | null;
                                readonly last: string | null;
                                /** @description starts of the container in which it was seen, at least */
                                readonly starts: number;
                            }[];
                            /** @description entries of its labels and grants that were not used */
                            readonly remove: readonly {
                                readonly entry: string;
                                readonly from: string;
                                /** @description RFC 3339, UTC */
                                readonly unusedSince: string;
                            }[];
                            readonly notes: readonly string[];
                        }[];
                        readonly next: string | null;
                    };
                    readonly "application/yaml": string;
                    readonly "text/plain": string;
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getEvents: {
        readonly parameters: {
            readonly query?: {
                /** @description id or name */
                readonly container?: string;
                /** @description kinds of events, with commas: flow, first-contact, ask, container, list, feed, coverage, repair, canary; default: all */
                readonly kind?: string;
                /** @description the id of an event: begin after it, as the header Last-Event-ID does */
                readonly after?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description server-sent events, until the client closes the connection */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "text/event-stream": string;
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getNotify: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly {
                            /** @description of the configuration; of the outputs: flows.file, flows.syslog, otlp */
                            readonly name: string;
                            /** @description json, slack, ntfy, gotify, exec, file, syslog, otlp */
                            readonly kind: string;
                            /** @description without credentials and paths of URLs */
                            readonly target: string;
                            /** @description events that wait */
                            readonly queued: number;
                            readonly delivered: number;
                            /** @description attempts that failed */
                            readonly failed: number;
                            /** @description events that are lost */
                            readonly dropped: number;
                            /** @description events that repeat an earlier one */
                            readonly suppressed: number;
                            readonly lastDelivered: string | null;
                            readonly lastError: string | null;
                        }[];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly postNotifyNameTest: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description the name of a receiver */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly name: string;
                        readonly ok: boolean;
                        /** @description why it failed */
                        readonly detail: string;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getAudit: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 999 records in a page; left out: 100 */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["AuditRecord"][];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getTokens: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["Token"][];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly postTokens: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["TokenRequest"];
            };
        };
        readonly responses: {
            /** @description created */
            readonly 201: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["NewToken"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly deleteTokensName: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description the name of a token */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done; there is no body */
            readonly 204: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getNodes: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["Node"][];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly deleteNodesName: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description the name of a host */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done; there is no body */
            readonly 204: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getFeeds: {
        readonly parameters: {
            readonly query?: {
                /** @description 1 to 9999 items in a page, in the order of their keys; left out: all */
                readonly limit?: string;
                /** @description `next` of the page before */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": {
                        readonly items: readonly components["schemas"]["Feed"][];
                        readonly next: string | null;
                    };
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly postFeedsNameSync: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description the name of a feed */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: {
            readonly content: {
                readonly "application/json": components["schemas"]["FeedSyncRequest"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["FeedSync"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getThreatsTarget: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description an address or a name */
                readonly target: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Threat"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 404: components["responses"]["Problem404"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getExport: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Export"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly postImport: {
        readonly parameters: {
            readonly query?: {
                /** @description nothing is changed */
                readonly dryRun?: "true" | "false";
                /** @description delete what the document does not contain */
                readonly replace?: "true" | "false";
            };
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["Export"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["PlannedChanges"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly putSyncOwner: {
        readonly parameters: {
            readonly query?: {
                /** @description nothing is changed */
                readonly dryRun?: "true" | "false";
                /** @description take over lists that another owner made */
                readonly adopt?: "true" | "false";
            };
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path: {
                /** @description the owner of the lists */
                readonly owner: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["SyncRequest"];
            };
        };
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["PlannedChanges"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 404: components["responses"]["Problem404"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly postStoreAccept: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Status"];
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly postTeardown: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description executes the change once: the same request with the same key gets the same answer for 24 hours */
                readonly "Idempotency-Key"?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done; there is no body */
            readonly 204: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content?: never;
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 403: components["responses"]["Problem403"];
            readonly 409: components["responses"]["Problem409"];
            readonly 412: components["responses"]["Problem412"];
            readonly 413: components["responses"]["Problem413"];
            readonly 415: components["responses"]["Problem415"];
            readonly 422: components["responses"]["Problem422"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            readonly 503: components["responses"]["Problem503"];
        };
    };
    readonly getHealthz: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Health"];
                };
            };
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getReadyz: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description done, or what was asked for */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Readiness"];
                };
            };
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
            /** @description see the body */
            readonly 503: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Readiness"];
                };
            };
        };
    };
    readonly getPage: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description a page without scripts */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "text/html": string;
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
    readonly getMetrics: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description the text format of Prometheus, version 0.0.4 */
            readonly 200: {
                headers: {
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "text/plain": string;
                };
            };
            readonly 400: components["responses"]["Problem400"];
            readonly 401: components["responses"]["Problem401"];
            readonly 429: components["responses"]["Problem429"];
            readonly 500: components["responses"]["Problem500"];
        };
    };
}

type Method = 'get' | 'put' | 'post' | 'delete';
type Path = keyof paths & string;
/** "GET /v1/status" and so on. */
export type Route = {
  [P in Path]: {
    [M in Method]: paths[P][M] extends { readonly responses: unknown } ? `${Uppercase<M>} ${P}` : never;
  }[Method];
}[Path];
type Json<T> = T extends { readonly content: { readonly 'application/json': infer B } } ? B : never;
type Field<T, K extends string> = T extends { readonly [F in K]?: infer V } ? NonNullable<V> : never;
type OperationOf<R extends Route> = {
  [P in Path]: { [M in Method]: R extends `${Uppercase<M>} ${P}` ? paths[P][M] : never }[Method];
}[Path];
type Success = 200 | 201;
type AnswerOf<O> = O extends { readonly responses: infer A } ? Json<A[Success & keyof A]> : never;
type ParameterOf<O, In extends string> = O extends { readonly parameters: infer P } ? Field<P, In> : never;

/** Each operation of the API: what it takes and what it answers. */
export type Routes = {
  readonly [R in Route]: {
    readonly params: ParameterOf<OperationOf<R>, 'path'>;
    readonly query: ParameterOf<OperationOf<R>, 'query'>;
    readonly body: Json<Field<OperationOf<R>, 'requestBody'>>;
    readonly response: AnswerOf<OperationOf<R>>;
  };
};
/** Routes that answer with a page of a collection. */
export type PagedRoute = {
  [R in Route]: Routes[R]['response'] extends {
    readonly items: readonly unknown[];
    readonly next: string | null;
  }
    ? R
    : never;
}[Route];
export type ItemOf<R extends PagedRoute> = Routes[R]['response'] extends { readonly items: readonly (infer T)[] }
  ? T
  : never;
