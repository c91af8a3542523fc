# Drawbridge as an image. docker-compose.yml gives it what it needs of the host.
# A tag moves: who builds for others should write a digest behind it (node:24-trixie-slim@sha256:…, from
# `docker buildx imagetools inspect node:24-trixie-slim`). None is written here, because one that is not renewed keeps
# every hole that was mended since.
FROM node:24-trixie-slim AS modules
WORKDIR /app
COPY package.json package-lock.json scripts/notices ./
# What runs, with its licences and its bill of materials, then what builds: two folders of one lock file. No script of a package
# runs.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund \
  && node notices . > NOTICE \
  && npm sbom --package-lock-only --omit dev --sbom-format cyclonedx > sbom.cdx.json \
  && mv NOTICE sbom.cdx.json node_modules/ \
  && mv node_modules production \
  && npm ci --ignore-scripts --no-audit --no-fund

FROM node:24-trixie-slim AS build
WORKDIR /app
COPY --from=modules /app/node_modules node_modules
COPY package.json tsconfig.json tsconfig.build.json ./
COPY scripts/build.mjs scripts/bundles.mjs scripts/launcher.cjs scripts/
COPY src src
RUN node scripts/build.mjs

FROM node:24-trixie-slim
LABEL org.opencontainers.image.title="drawbridge" \
  org.opencontainers.image.description="Egress firewall controller for Docker hosts" \
  org.opencontainers.image.licenses="MIT"
# npm and its packages are not needed to run.
RUN apt-get update \
  && apt-get install -y --no-install-recommends iproute2 ipset iptables nftables \
  && rm -rf /var/lib/apt/lists/* /usr/local/lib/node_modules /opt/yarn* \
    /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /usr/local/bin/yarn /usr/local/bin/yarnpkg \
  && mkdir -p /usr/local/lib/iptables-legacy \
  && for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do \
    ln -s /usr/sbin/xtables-legacy-multi "/usr/local/lib/iptables-legacy/$name"; \
  done
WORKDIR /app
COPY --from=modules /app/production node_modules
COPY --from=build /app/dist dist
COPY package.json LICENSE ./
COPY allowlists allowlists
COPY schemas schemas
COPY scripts/in-container /usr/local/bin/drawbridge
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["node", "-e", "require('node:http').get({ socketPath: '/run/drawbridge/api.sock', path: '/readyz' }, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
ENTRYPOINT ["drawbridge"]
CMD ["run"]
