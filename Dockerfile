# Drawbridge as an image. docker-compose.yml gives it what it needs of the host.
FROM node:20-trixie-slim AS modules
WORKDIR /app
COPY package.json package-lock.json ./
# What runs, then what builds: two folders of one lock file.
RUN npm ci --omit=dev --no-audit --no-fund && mv node_modules production && npm ci --no-audit --no-fund

FROM node:20-trixie-slim AS build
WORKDIR /app
COPY --from=modules /app/node_modules node_modules
COPY package.json tsconfig.json tsconfig.build.json ./
COPY src src
RUN node node_modules/typescript/bin/tsc -p tsconfig.build.json

FROM node:20-trixie-slim
RUN apt-get update \
  && apt-get install -y --no-install-recommends iproute2 ipset iptables nftables \
  && rm -rf /var/lib/apt/lists/* \
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
ENTRYPOINT ["drawbridge"]
CMD ["run"]
